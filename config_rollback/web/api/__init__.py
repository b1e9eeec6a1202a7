"""The JSON interface, a module per kind of caller."""
