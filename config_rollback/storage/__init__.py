"""The database: tables, schema, connections, and the only queries."""
