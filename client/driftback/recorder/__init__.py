"""Counts finished messages and sends the counts to an exporter."""
