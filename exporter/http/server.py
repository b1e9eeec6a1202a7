"""The connections of a service: how many there may be, and which of them are overdue."""

import asyncio
import contextlib
import logging
import socket
from email.utils import formatdate
from typing import Final

from exporter.http.connection import Application, Connection
from exporter.http.listener import BACKLOG

CHECK_SECONDS: Final = 0.25
"""How often connections are asked whether their peers are overdue."""

_log = logging.getLogger(__name__)


class Server:
    """Takes connections from `serve` to `stop`. Lives in an event loop."""

    def __init__(self, application: Application, max_connections: int) -> None:
        self.application = application
        self._max_connections = max_connections
        self.connections: dict[Connection, None] = {}
        """Those that are open, in the order in which they were last answered, or opened."""
        self._stopping = asyncio.Event()
        self._all_closed = asyncio.Event()
        self.date = _date()

    async def serve(self, listener: socket.socket, grace_seconds: float) -> None:
        """Answer requests until `stop`; then those that have come, for so long."""
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        checking = asyncio.create_task(self._check_regularly())
        try:
            await self._stopping.wait()
        finally:
            loop.remove_reader(listener)
            await asyncio.sleep(
                0
            )  # what was just accepted would leak if it met a closed server (CPython gh-109564)
            listening.close()
            if not self.connections:
                self._all_closed.set()
            for connection in list(self.connections):
                connection.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._all_closed.wait()
            for connection in list(self.connections):
                connection.abort()
            await self._all_closed.wait()
            checking.cancel()

    def stop(self) -> None:
        """Take no more connections and requests. Call in the event loop."""
        self._stopping.set()

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for a connection: that of the one whose peer keeps us waiting longest."""
        self.connections[connection] = None
        if self._stopping.is_set():  # it was accepted just before
            self._all_closed.clear()
            connection.stop()
            return True
        if len(self.connections) <= self._max_connections:
            return True
        now = asyncio.get_running_loop().time()
        for other in self.connections:
            if other is not connection and other.makes_room(now):
                del self.connections[other]
                other.abort()
                self.application.evicted()
                return True
        del self.connections[connection]  # it is refused, and takes nobody's place
        return False

    def answered(self, connection: Connection) -> None:
        """From now on its peer keeps us waiting."""
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self.connections.pop(connection, None)
        if self._stopping.is_set() and not self.connections:
            self._all_closed.set()

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.date = _date()
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                try:
                    connection.check(now)
                except Exception:  # noqa: BLE001 (a task that ended would bound nothing any more)
                    _log.exception("a connection could not be checked")
                    connection.abort()


def _date() -> bytes:
    return formatdate(usegmt=True).encode()
