"""Time, injected: everything that asks for the time is given a `Clock`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time, aware, in UTC."""


Monotonic = Callable[[], float]
"""Returns seconds that only go on, whatever happens to the current time."""


def utc_now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


def isoformat(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`: one spelling per moment, so that it can be hashed."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
