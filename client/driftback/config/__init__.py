"""Follows the active configuration of a persona."""
