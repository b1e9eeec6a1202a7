"""Periodic work: writes the rows of counted refusals, and deletes old rows."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

import structlog
from anyio.to_thread import run_sync

from config_rollback.clock import Clock, Monotonic
from config_rollback.errors import UnavailableError
from config_rollback.metrics import Metrics
from config_rollback.rollback.refusals import Refusals
from config_rollback.settings import Settings
from config_rollback.storage.store import FORGETTABLE, Store

INTERVAL_SECONDS = 300.0
BATCH = 500
"""Rows of a transaction: a rollback waits for no more than these."""
MAX_BATCHES = 20
"""Of a table at a time; the rest has time until the next."""
JUMP_SECONDS = 60.0
"""Deviation from a monotonic clock, between two rounds, that is called a jump."""
STEADY_SECONDS = 3600.0
"""How long nothing is deleted after a start or a jump: time for a wrong clock to be set right."""

log = structlog.get_logger(__name__)


class Upkeep:
    """Runs beside the service. Versions, activations and the audit are never deleted."""

    def __init__(
        self,
        store: Store,
        refusals: Refusals,
        settings: Settings,
        clock: Clock,
        monotonic: Monotonic,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._refusals = refusals
        self._clock = clock
        self._monotonic = monotonic
        self._metrics = metrics
        self._steady_since = monotonic()
        self._offset = clock().timestamp() - self._steady_since
        self._keep = {
            "sessions": timedelta(days=settings.keep_sessions_days),
            "used_tokens": timedelta(),  # an expired one opens nothing
            "idempotency": timedelta(days=settings.keep_idempotency_keys_days),
            "alerts": timedelta(days=settings.keep_alerts_days),
        }
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Until `close`, and once more then: counted attempts are written before a stop."""
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), INTERVAL_SECONDS)
            await run_sync(self.once)

    def close(self) -> None:
        """Ends `run`."""
        self._closing.set()

    def once(self) -> None:
        """Does all that is due now; what fails is logged."""
        for task in (self._refusals.settle, self._forget):
            try:
                task()
            except UnavailableError as error:
                log.warning("upkeep_failed", error=error.message)
            except Exception:  # the next time must come
                log.exception("upkeep_failed")

    def _forget(self) -> None:
        now = self._clock()
        if not self._is_steady(now):
            return
        for table, age in self._keep.items():
            for _ in range(MAX_BATCHES):
                with self._store.write() as transaction:
                    deleted = transaction.forget(FORGETTABLE[table], now - age, BATCH)
                self._metrics.rows_deleted.labels(table).inc(deleted)
                if deleted < BATCH:
                    break

    def _is_steady(self, now: datetime) -> bool:
        """Whether the clock has gone evenly for an hour. By one that jumps, everything may look old."""
        monotonic = self._monotonic()
        before, self._offset = self._offset, now.timestamp() - monotonic
        jump = self._offset - before
        if abs(jump) > JUMP_SECONDS:
            self._steady_since = monotonic
            self._metrics.clock_jumps.inc()
            log.warning("clock_jumped", seconds=round(jump))
        return monotonic - self._steady_since >= STEADY_SECONDS
