"""Brings the active configuration to services, and knows who has it."""
