"""The audit record: its hash chain, its check, its export."""
