"""Hears of activations that another replica commits, by PostgreSQL's LISTEN."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import psycopg
import structlog
from psycopg.rows import TupleRow
from sqlalchemy import Engine

from config_rollback.storage.database import ACTIVATIONS_CHANNEL
from config_rollback.storage.postgresql import PARAMETERS

RETRY_SECONDS = 1.0
"""Pause before the next connection, shortened by a random share up to half."""

log = structlog.get_logger(__name__)


class Listener:
    """One separate connection, which is opened again when it breaks. Calls `heard` in the event loop."""

    def __init__(self, engine: Engine, heard: Callable[[], None]) -> None:
        _, parameters = engine.dialect.create_connect_args(engine.url)
        self._parameters = {**PARAMETERS, **parameters}
        self._heard = heard
        self.listening = False
        """Whether this process is notified of every activation now."""

    async def run(self) -> None:
        """Listens until it is cancelled, or finds a pooler in between; then the service polls instead."""
        while True:
            try:
                if not await self._listen():
                    log.warning("listening_impossible", cause="a connection pooler such as PgBouncer")
                    return
            except psycopg.Error as error:
                log.warning("listening_failed", error=type(error).__name__)
            except Exception:  # whatever it is: a task that ended would hear of nothing any more
                log.exception("listening_failed")
            finally:
                self.listening = False
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load)

    async def _listen(self) -> bool:
        """False if a pooler would give the connection to another client, so no notification would arrive."""
        async with await self._connect() as connection:
            (server,) = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or (None,)
            if server != connection.info.backend_pid:  # a pooler makes one up
                return False
            await connection.execute(f"LISTEN {ACTIVATIONS_CHANNEL}".encode())
            self.listening = True
            self._heard()  # activations that happened before this connection listened
            async for _ in connection.notifies():
                self._heard()
        return True

    async def _connect(self) -> psycopg.AsyncConnection[TupleRow]:
        connecting = asyncio.create_task(psycopg.AsyncConnection.connect(**self._parameters, autocommit=True))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # psycopg would leave a half-made connection open.
            with contextlib.suppress(psycopg.Error):
                await (await connecting).close()
            raise
