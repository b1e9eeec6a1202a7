"""What is done from time to time: refused attempts become rows, and what nobody needs any more is deleted."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import structlog
from anyio.to_thread import run_sync

from config_rollback.clock import Clock
from config_rollback.errors import UnavailableError
from config_rollback.metrics import Metrics
from config_rollback.refusals import Refusals
from config_rollback.settings import Settings
from config_rollback.store import FORGETTABLE, Store

INTERVAL_SECONDS = 300.0
BATCH = 500
"""Rows of a transaction: a rollback waits for no more than these."""
MAX_BATCHES = 20
"""Of a table at a time; the rest has time until the next."""

log = structlog.get_logger(__name__)


class Upkeep:
    """Runs beside the service. Versions, activations and the audit are never deleted."""

    def __init__(
        self, store: Store, refusals: Refusals, settings: Settings, clock: Clock, metrics: Metrics
    ) -> None:
        self._store = store
        self._refusals = refusals
        self._clock = clock
        self._metrics = metrics
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
        for table, age in self._keep.items():
            for _ in range(MAX_BATCHES):
                with self._store.write() as transaction:
                    deleted = transaction.forget(FORGETTABLE[table], now - age, BATCH)
                self._metrics.rows_deleted.labels(table).inc(deleted)
                if deleted < BATCH:
                    break
