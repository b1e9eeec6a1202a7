"""Time for the journal, in two parts, because the system's clock may jump by hours or years.

What ages, ages by the running time: a clock that jumps makes no label set and no counted batch older. The
system's clock only says when a label set was born.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from exporter import catalogue
from exporter.errors import ClockError

EARLIEST: Final = 1_577_836_800.0
"""The year 2020: a system clock that says less has not been set."""
JUMP_SECONDS: Final = 60.0
"""Deviation between two readings that is called a jump. Corrections of a clock in use are far smaller."""
LONG_STOP_SECONDS: Final = 8 * 86_400.0
"""A longer stop than this cannot be distinguished from a clock that is ahead."""

_log = structlog.get_logger("exporter.clock")


class Moment(NamedTuple):
    """A point in time, on two scales."""

    running: float
    """Seconds for which exporters have served this journal; stops while none does, and never goes back."""
    unix: float
    """Unix seconds by the system's clock, but never before the journal's newest."""


class JournalClock:
    """Continues from the end of the journal. `unix` and `monotonic` give seconds; not thread-safe.

    A jump is logged, and `on_jump` is called with its direction. Raises ClockError if the system's clock was
    never set.
    """

    def __init__(
        self,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
        newest: Moment,
        on_jump: Callable[[str], None],
    ) -> None:
        self._unix = unix
        self._monotonic = monotonic
        self._newest = newest
        self._on_jump = on_jump
        self._read = unix(), monotonic()
        start, _ = self._read
        if start < EARLIEST:
            raise ClockError("The system's clock is before the year 2020: set it, then start the exporter")
        since = start - newest.unix
        if newest.unix and not -JUMP_SECONDS <= since <= LONG_STOP_SECONDS:
            self._report(since, "the journal's last write")

    def now(self) -> Moment:
        """The present."""
        unix, monotonic = self._unix(), self._monotonic()
        unix_before, monotonic_before = self._read
        self._read = unix, monotonic
        elapsed = monotonic - monotonic_before
        jump = unix - unix_before - elapsed
        if abs(jump) > JUMP_SECONDS:
            self._report(jump, "a monotonic clock")
        self._newest = Moment(self._newest.running + elapsed, max(self._newest.unix, unix))
        return self._newest

    def _report(self, seconds: float, beside: str) -> None:
        direction = catalogue.AHEAD if seconds > 0 else catalogue.BEHIND
        _log.warning("clock_jumped", seconds=round(seconds), direction=direction, beside=beside)
        self._on_jump(direction)
