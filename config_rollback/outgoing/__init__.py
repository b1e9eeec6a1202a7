"""Calls to other services: sessions, threads of their own, pauses after a failure."""
