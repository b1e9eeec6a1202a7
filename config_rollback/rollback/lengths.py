"""Lengths of what callers may write into the record."""

from __future__ import annotations

MAX_REASON_LENGTH = 2000
MAX_ALERT_LENGTH = 200
MAX_KEY_LENGTH = 255
