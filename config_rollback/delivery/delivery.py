"""Hands configurations to the processes that serve them, at once when they change."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
import structlog

from config_rollback.audit import record
from config_rollback.clock import isoformat
from config_rollback.errors import StorageBusyError, StorageUnavailableError, TooManyPollsError
from config_rollback.storage.store import Store

if TYPE_CHECKING:
    from config_rollback.delivery.listening import Listener

WATCH_SECONDS = 0.5
"""How often to look for activations made elsewhere, by another process or in a restored backup."""
RELY_SECONDS = 5.0
"""How often to look while PostgreSQL notifies this process, in seconds."""
REPAIR_SECONDS = 5.0
"""How often to read everything again while something is withheld, in seconds."""

_ETAG = re.compile(r'"[0-9]{1,9}-([0-9]{1,9})-[0-9a-f]{8}"')

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ActiveConfig:
    """What a persona serves.

    `etag` names the activation, so every publication and rollback has a new one, and the content, for after a
    restored backup numbers are given a second time.
    """

    persona: str
    version: int
    content_hash: str
    config_json: str
    activated_at: str
    activated_by: str
    etag: str


class Delivery:
    """The active configurations in memory, and those who wait for the next one. Lives in one event loop."""

    def __init__(self, store: Store, max_waiting: int) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._active: Mapping[str, ActiveConfig] = {}
        self._withheld: Mapping[str, str | None] = {}
        self._newest_activation: tuple[int, str | None] | None = None
        self._read_at = 0.0
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._refreshing = asyncio.Lock()
        self._closing = False
        self._look = asyncio.Event()
        self._listener: Listener | None = None
        if store.engine.name == "postgresql":
            from config_rollback.delivery.listening import (
                Listener,
            )  # with psycopg, which SQLite does not need

            self._listener = Listener(store.engine, self._look.set)

    @property
    def active(self) -> Mapping[str, ActiveConfig]:
        """By persona."""
        return self._active

    @property
    def withheld(self) -> Set[str]:
        """Personas whose newest activation the audit log does not confirm, so it is not delivered.

        If this process has an earlier configuration, it keeps delivering that. Otherwise it delivers none.
        """
        return self._withheld.keys()

    @property
    def waiting(self) -> int:
        """How many long polls are open."""
        return sum(len(events) for events in self._waiting.values())

    async def refresh(self) -> None:
        """Reads new activations from the database, and wakes the polls of those personas."""
        async with self._refreshing:
            loaded = await anyio.to_thread.run_sync(partial(self._load, self._newest_activation))
            if loaded is None:
                return
            before = self._active
            self._newest_activation, self._active, self._withheld = loaded
        for persona, config in self._active.items():
            if before.get(persona) != config:
                self._wake(persona)

    async def catch_up(self, etag: str | None) -> None:
        """Refreshes if a client's tag names an activation that this process does not know yet.

        Another replica gave it the tag; answering from memory would take the client back to an older version.
        """
        found = _ETAG.fullmatch(etag or "")
        newest = self._newest_activation
        if found and newest is not None and int(found[1]) > newest[0]:
            await self.refresh()

    async def watch(self) -> None:
        """Refreshes until `close`; a database that fails is asked again.

        Not to be cancelled: a query in its thread would outlive the pool that its connection belongs to.
        """
        listening = asyncio.create_task(self._listener.run()) if self._listener else None
        while not self._closing:
            notified = self._listener is not None and self._listener.listening
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), RELY_SECONDS if notified else WATCH_SECONDS)
            self._look.clear()
            try:
                await self.refresh()
            except (StorageBusyError, StorageUnavailableError) as error:
                log.warning("delivery_refresh_failed", error=error.message)
            except Exception:  # if the watch ended, the present version would be delivered for ever
                log.exception("delivery_refresh_failed")
        if listening is not None:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def wait_for_change(self, persona: str, etag: str | None, seconds: float) -> ActiveConfig | None:
        """The configuration as soon as its tag differs from `etag`; None if that takes too long.

        Raises TooManyPollsError if as many wait already as may.
        """
        config = self._active.get(persona)
        if (config is not None and config.etag != etag) or seconds <= 0 or self._closing:
            return None if config is not None and config.etag == etag else config
        if self.waiting >= self._max_waiting:
            raise TooManyPollsError(
                f"{self._max_waiting} requests wait for a change already: try again later"
            )
        event = asyncio.Event()
        self._waiting.setdefault(persona, set()).add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        finally:
            self._waiting[persona].discard(event)
            if not self._waiting[persona]:
                del self._waiting[persona]
        config = self._active.get(persona)
        return None if config is not None and config.etag == etag else config

    def close(self) -> None:
        """Lets every long poll answer at once, so that a stop needs not wait for them."""
        self._closing = True
        self._look.set()
        for persona in list(self._waiting):
            self._wake(persona)

    def _wake(self, persona: str) -> None:
        for event in self._waiting.get(persona, ()):
            event.set()

    def _load(self, known: tuple[int, str | None] | None) -> _Loaded | None:
        begun = time.monotonic()
        with self._store.read() as transaction:
            newest = transaction.newest_activation()
            # A withheld configuration may have been repaired without an activation.
            may_be_repaired = self._withheld and begun >= self._read_at + REPAIR_SECONDS
            if newest == known and not may_be_repaired:
                return None
            self._read_at = begun
            entries = transaction.newest_entries()
        active: dict[str, ActiveConfig] = {}
        withheld = {}
        for persona, entry in entries:
            objection = record.objection(entry)
            if objection is None and entry and entry.activation and entry.version:
                active[persona] = _config(entry.activation, entry.version)
                continue
            if self._withheld.get(persona, "") != objection:
                log.error("config_withheld", persona=persona, problem=objection)
            withheld[persona] = objection
            if persona in self._active:
                active[persona] = self._active[persona]
        return newest, active, withheld


_Loaded = tuple[tuple[int, str | None] | None, dict[str, ActiveConfig], dict[str, str | None]]


def _config(activation: record.ActivationRecord, version: record.VersionRecord) -> ActiveConfig:
    return ActiveConfig(
        persona=activation.persona,
        version=activation.version,
        content_hash=version.content_hash,
        config_json=version.config_json,
        activated_at=isoformat(activation.activated_at),
        activated_by=activation.activated_by,
        etag=f'"{activation.version}-{activation.activation_id}-{version.content_hash[:8]}"',
    )
