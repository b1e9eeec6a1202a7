"""The connections of a service: how many there may be, and which of them are overdue."""

import asyncio
import contextlib
import logging
import socket
from collections import OrderedDict
from email.utils import formatdate
from typing import Final

from exporter.http.connection import Application, Connection
from exporter.http.listener import BACKLOG, MAX_LEAVING

READ_BYTES: Final = 64 * 1024
"""Of one read of a socket."""
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
        self.leaving: OrderedDict[Connection, None] = OrderedDict()
        """Those whose last answer is sent, and that are no more counted among the others."""
        self.buffer = memoryview(bytearray(READ_BYTES))
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
            await asyncio.sleep(0)  # what was just accepted would leak in a closed server (CPython gh-109564)
            listening.close()
            self._all_closed_if_none()
            for connection in self._all():
                connection.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._all_closed.wait()
            for connection in self._all():
                connection.abort()
            await self._all_closed.wait()
            checking.cancel()

    def stop(self) -> None:
        """Take no more connections and requests. Call in the event loop."""
        self._stopping.set()

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for it: that of a connection whose peer keeps us waiting, idle ones first."""
        self.connections[connection] = None
        if self._stopping.is_set():  # it was accepted just before
            self._all_closed.clear()
            connection.stop()
            return True
        if len(self.connections) <= self._max_connections:
            return True
        now = asyncio.get_running_loop().time()
        for in_request in (False, True):
            for other in self.connections:
                if other is not connection and other.makes_room(now, in_request):
                    del self.connections[other]
                    other.abort()
                    self.application.evicted()
                    return True
        return False

    def answered(self, connection: Connection) -> None:
        """From now on its peer keeps us waiting."""
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def leaves(self, connection: Connection) -> None:
        """Its last answer is sent: it takes nobody's place, and the first of too many is ended."""
        self.connections.pop(connection, None)
        self.leaving[connection] = None
        if len(self.leaving) > MAX_LEAVING:
            self.leaving.popitem(last=False)[0].abort()

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self.connections.pop(connection, None)
        self.leaving.pop(connection, None)
        self._all_closed_if_none()

    def _all_closed_if_none(self) -> None:
        if self._stopping.is_set() and not self.connections and not self.leaving:
            self._all_closed.set()

    def _all(self) -> list[Connection]:
        return [*self.connections, *self.leaving]

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.date = _date()
            now = asyncio.get_running_loop().time()
            for connection in self._all():
                try:
                    connection.check(now)
                except Exception:  # noqa: BLE001 (a task that ended would bound nothing any more)
                    _log.exception("a connection could not be checked")
                    connection.abort()


def _date() -> bytes:
    return formatdate(usegmt=True).encode()
