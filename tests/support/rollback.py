"""config_rollback beside real processes, which do not share a test's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from config_rollback.clock import utc_now
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Clock, Service


class _SystemClock(Clock):
    def __call__(self) -> datetime:
        return utc_now()

    def monotonic(self) -> float:
        return time.monotonic()


@contextmanager
def rollback(folder: Path) -> Iterator[Service]:
    """A service on SQLite in this folder, at the time of the machine."""
    service = Service(Sqlite(folder / "config_rollback.db"), _SystemClock()).start()
    try:
        yield service
    finally:
        service.stop()
