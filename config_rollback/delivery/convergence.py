"""Which version each serving process says that it serves, whichever replica it says so to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import anyio.to_thread
import structlog

from config_rollback.clock import Clock
from config_rollback.errors import UnavailableError
from config_rollback.storage.store import Store

SEEN_WITHIN = timedelta(seconds=60)
"""A process that reported within this time counts as serving."""
MAX_CLIENTS = 10_000
"""Bound of the table of serving processes; past it the one unheard of for longest makes room."""
SHARE_SECONDS = 0.5
"""How long reports are gathered before they are written for the other replicas."""
RETRY_SECONDS = 5.0
"""Pause after a database that failed."""

log = structlog.get_logger(__name__)


class Client(NamedTuple):
    """A process that serves a persona, by the name that it gave itself."""

    persona: str
    name: str


class Report(NamedTuple):
    """What a process last said: the version that it serves."""

    version: int
    at: datetime


class Clients:
    """The reports to this replica, in memory, and through the database those to the others.

    SQLite has one replica: there nothing is written. On PostgreSQL, while the database fails, the counts are
    those of this replica alone; nothing else depends on it.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._reports: dict[Client, Report] = {}
        self._has_replicas = store.engine.name == "postgresql"
        self._unshared: set[Client] = set()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()

    def report(self, persona: str, name: str, version: int) -> None:
        """The process of that name serves that version now."""
        client = Client(persona, name)
        self._reports.pop(client, None)  # so that the order of the dictionary is the order of reports
        while len(self._reports) >= MAX_CLIENTS:
            oldest = next(iter(self._reports))
            del self._reports[oldest]
            self._unshared.discard(oldest)
        self._reports[client] = Report(version, self._clock())
        if self._has_replicas:
            self._unshared.add(client)
            self._news.set()

    def serving(self, persona: str) -> Counter[int]:
        """How many processes serve each version of the persona. Asks the database: not for the event loop."""
        reports = self._newest(self._recent(), persona)
        return Counter(report.version for client, report in reports.items() if client.persona == persona)

    def by_version(self) -> Counter[tuple[str, int]]:
        """How many processes serve each persona's version. Asks the database."""
        return _count(self._newest(self._recent()))

    def on_this_replica(self, ask: bool = True) -> Counter[tuple[str, int]]:
        """The same without those whose newest report came to another replica: a sum counts each once.

        Without `ask` the database is left alone, and all that came to this replica are counted.
        """
        ours = self._recent()
        newest = self._newest(ours) if ask else ours
        return _count({client: report for client, report in ours.items() if newest[client] == report})

    async def share(self) -> None:
        """Writes this replica's reports for the others, until `close`."""
        while not self._closing.is_set():
            await self._news.wait()
            await self._pause(SHARE_SECONDS)
            self._news.clear()
            clients, self._unshared = self._unshared, set()
            if not clients:
                continue
            try:
                await anyio.to_thread.run_sync(partial(self._write, clients))
            except UnavailableError as error:
                log.warning("convergence_not_shared", error=error.message)
            except Exception:  # whatever it is: configurations are delivered all the same
                log.exception("convergence_not_shared")
            else:
                continue
            self._unshared |= clients & self._reports.keys()
            self._news.set()
            await self._pause(RETRY_SECONDS)

    def close(self) -> None:
        """Ends `share`."""
        self._closing.set()
        self._news.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _write(self, clients: Collection[Client]) -> None:
        reports = self._reports.copy()
        # In order, so that two replicas that write the same rows cannot wait for each other.
        rows = [(*client, *reports[client]) for client in sorted(clients) if client in reports]
        with self._store.write_unordered() as transaction:
            transaction.note_serving(rows, forget=self._clock() - SEEN_WITHIN, keep=MAX_CLIENTS)

    def _newest(self, ours: Mapping[Client, Report], persona: str | None = None) -> dict[Client, Report]:
        """Ours and those of the other replicas, of each process the newest report."""
        newest = dict(ours)
        for client, report in self._shared(persona).items():
            if client not in newest or newest[client].at < report.at:
                newest[client] = report
        return newest

    def _recent(self) -> dict[Client, Report]:
        # A copy: pages and metrics are made in another thread than reports arrive in.
        return self._only_recent(self._reports.copy())

    def _only_recent(self, reports: Mapping[Client, Report]) -> dict[Client, Report]:
        """Those of about now: what a clock wrote before it was set back would else count for as long."""
        now = self._clock()
        return {client: report for client, report in reports.items() if abs(now - report.at) <= SEEN_WITHIN}

    def _shared(self, persona: str | None) -> Mapping[Client, Report]:
        if not self._has_replicas:
            return {}
        try:
            with self._store.read() as transaction:
                rows = transaction.serving(self._clock() - SEEN_WITHIN, persona)
        except UnavailableError as error:
            log.warning("convergence_of_this_replica_only", error=error.message)
            return {}
        return self._only_recent({Client(of, name): Report(version, at) for of, name, version, at in rows})


def _count(reports: Mapping[Client, Report]) -> Counter[tuple[str, int]]:
    return Counter((client.persona, report.version) for client, report in reports.items())
