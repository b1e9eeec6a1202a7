"""One connection of HTTP/1.1, for both services: requests are answered one at a time, in their order.

What is malformed is refused behind the answers that are due, and nothing is taken behind a request whose
answer ends the connection (RFC 9112, section 9.6).

Nothing that a peer sends can grow without a bound: `reader.py` bounds heads, bodies, and the requests that
wait for their turn. While one waits, or an answer is not read, nothing more is read. `server.py` bounds the
connections, and asks each of them regularly whether its peer is overdue.

Behind its last answer a connection ends its side, and reads on for a while before it closes: a peer that
still sends would get a reset instead of the answer (RFC 9112, section 9.6).
"""

import asyncio
import logging
from math import inf
from typing import Final, Protocol

from exporter.errors import BodyIncompleteError, BodyTooLargeError, ExporterError, TooManyConnectionsError
from exporter.http.exchange import Exchange, Reply
from exporter.http.reader import CHUNK_COST, RequestReader

MAX_UNREAD_BYTES: Final = 64 * 1024
"""Of a body that the application has not asked for; then no more is read."""
HEAD_SECONDS: Final = 10.0
"""Time in which the head of a request must arrive, from its first byte or from the connection's start."""
KEEP_ALIVE_SECONDS: Final = 5.0
"""Time in which the next request must begin after an answer, or the peer must close after the last one."""
MAX_DROPPED_BYTES: Final = 8 * 1024**2
"""Of what is read and dropped behind the last answer."""
HALF_CLOSED_SECONDS: Final = 1.0
"""Time in which an answer must begin after its peer has ended its side: mostly it is gone altogether."""
FRESH_SECONDS: Final = 0.1
"""Time in which a request that was begun makes room for nobody: it may be here, and not yet read."""
DRAIN_SECONDS: Final = 30.0
"""Time in which a client must read an answer, from the first moment at which we had to wait for it."""

_log = logging.getLogger(__name__)


class Application(Protocol):
    """What answers requests. None of its methods raises."""

    max_body_bytes: int
    body_seconds: float
    """Time in which a body must arrive, once it was asked for."""

    def begin(self, exchange: Exchange) -> None:
        """Answer a request, now or later. Its head is here, and it is its turn."""

    def refuse(self, exchange: Exchange | None, error: ExporterError) -> Reply:
        """The answer to what is malformed, too much or too late; without an exchange, of a connection."""

    def evicted(self) -> None:
        """A connection was ended to make room for another."""


class Owner(Protocol):
    """What a connection needs of its server."""

    application: Application
    date: bytes
    buffer: memoryview
    """What one read of a socket brings, for a moment."""

    def opened(self, connection: "Connection") -> bool:
        """Whether there is room for it."""

    def answered(self, connection: "Connection") -> None:
        """From now on its peer keeps us waiting."""

    def leaves(self, connection: "Connection") -> None:
        """Its last answer is sent."""

    def closed(self, connection: "Connection") -> None:
        """It is gone."""


class Connection(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._application = owner.application
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(self, owner.application.max_body_bytes)
        self._current: Exchange | None = None
        """The request that is being answered."""
        self._going_on = False
        self._deaf = False
        """Whether what comes from now on is thrown away."""
        self._leaving = False
        """Whether its last answer is given."""
        self._is_our_side_over = False
        self._lingers = True
        """Whether it waits, behind the last answer, for its peer to close."""
        self._dropped_bytes = 0
        self._half_closed_since = inf
        self._due: ExporterError | None = None
        """What is refused behind the answers that are due."""
        self._writable = asyncio.Event()
        self._writable.set()
        self.waiting_since = inf
        """Since when an answer waits for the peer to read it, by the loop's clock."""
        self._unread_since = inf
        """The same, from the first time in this answer."""
        self._is_idle = False
        """Whether its last request is answered, and no other has begun."""
        self._idle_since = self._loop.time()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (for the type checker)
        self._transport = transport
        if not self._owner.opened(self):
            self._deaf = True
            self._refuse_connection(TooManyConnectionsError("Too many connections are open: try again later"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Nobody waits for an answer any more."""
        self._owner.closed(self)
        self._reader.waiting.clear()
        self._writable.set()
        if self._current is not None:
            self._current.end()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where the next bytes go: all connections share it, as each reads it at once."""
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes, and begin what they complete."""
        if self._deaf:
            self._dropped_bytes += nbytes
            if self._leaving and self._dropped_bytes > MAX_DROPPED_BYTES:
                self.close()
            return
        reader = self._reader
        was_in_head = reader.in_head
        try:
            reader.feed(self._owner.buffer[:nbytes])
        except ExporterError as error:
            self._go_on()
            self._refuse(error)
            return
        if reader.in_head and not was_in_head:
            self._is_idle, self._idle_since = False, self._loop.time()
        self._go_on()
        dropped = reader.arriving
        if dropped is not None and dropped.over and dropped.body_cost > self._application.max_body_bytes:
            self._leave()

    def eof_received(self) -> bool:
        """The peer sends no more, but may still read: what has come whole is answered."""
        current, waiting = self._current, self._reader.waiting
        if waiting and not waiting[-1].complete:
            waiting.pop()
        last = waiting[-1] if waiting else current
        if last is None or (current is not None and not current.complete):
            return False  # which closes
        self._deaf, self._lingers = True, False
        self._half_closed_since = min(self._half_closed_since, self._loop.time())
        if self._due is None:
            last.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """The peer reads more slowly than is sent to it."""
        self._writable.clear()
        self.waiting_since = self._loop.time()
        self._unread_since = min(self._unread_since, self.waiting_since)
        self._regulate()

    def resume_writing(self) -> None:
        """The peer has read what was sent so far."""
        self._writable.set()
        self.waiting_since = inf
        if self._current is None:
            self._unread_since = inf
        self._go_on()

    # What exchanges call.

    @property
    def date(self) -> bytes:
        """The value of the header."""
        return self._owner.date

    def write(self, data: bytes) -> None:
        """Send bytes, or hold them until the peer reads."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Return when the peer has read so much that more can be sent, or is gone."""
        await self._writable.wait()

    def read_on(self, exchange: Exchange) -> None:
        """Read the body that the application has asked for."""
        exchange.read_since = self._loop.time()
        if exchange.declared_bytes > self._application.max_body_bytes:
            self._refuse_body(exchange, "")
            return
        if exchange.expects_continue and exchange.version != "1.0" and not exchange.complete:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._deliver(exchange)

    def finished(self, exchange: Exchange) -> None:
        """The answer is complete: the next request's turn, or the end."""
        self._current = None
        self._is_idle, self._idle_since = True, self._loop.time()
        if self._writable.is_set():
            self._unread_since = inf
        self._owner.answered(self)
        if not exchange.keep_alive:
            self._leave()
        elif not self._going_on:
            self._go_on()

    # What the server calls.

    @property
    def is_waited_for(self) -> bool:
        """Whether its peer has yet to send a request, or the rest of one."""
        return self._current is None or not self._current.complete

    def makes_room(self, now: float, in_request: bool) -> bool:
        """Whether it may be ended for another: as idle, or as slow with a head or, `in_request`, a body."""
        if in_request != (self._current is not None):
            return False
        return self.is_waited_for and (self._is_idle or now > self._idle_since + FRESH_SECONDS)

    def check(self, now: float) -> None:
        """End the connection if its peer is overdue."""
        if self._leaving:
            self._end_our_side()
        if now > self._unread_since + DRAIN_SECONDS:
            self.abort()
        elif (exchange := self._current) is not None:
            seconds = self._application.body_seconds
            if now > self._half_closed_since + HALF_CLOSED_SECONDS and not exchange.started:
                self.abort()
            elif not exchange.complete and now > exchange.read_since + seconds:
                exchange.keep_alive = False
                late = BodyIncompleteError(f"The body did not arrive within {seconds:g} seconds")
                self._refuse_exchange(exchange, late)
        elif not self._reader.waiting and now > self._idle_since + (
            KEEP_ALIVE_SECONDS if self._is_idle else HEAD_SECONDS
        ):
            self.close()

    def stop(self) -> None:
        """Take no more requests; the one that is being answered is the last."""
        self._lingers = False
        self._reader.waiting.clear()
        if self._current is None:
            self.close()
        else:
            self._current.keep_alive = False

    def close(self) -> None:
        """End the connection, when its peer has read what was sent."""
        self._deaf = self._leaving = True
        self._unread_since = min(self._unread_since, self._loop.time())
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    # Its own.

    def _go_on(self) -> None:
        """Give the application what has arrived: the rest of a body, or requests whose turn it is."""
        self._going_on = True
        if self._current is not None:
            self._deliver(self._current)
        waiting = self._reader.waiting
        while self._current is None and waiting and self._writable.is_set() and not self._leaving:
            self._current = waiting.popleft()
            self._is_idle, self._idle_since = False, self._loop.time()
            self._application.begin(self._current)
        self._going_on = False
        if self._current is None and not waiting and self._due is not None and not self._leaving:
            self._refuse_connection(self._due)
        self._regulate()

    def _leave(self) -> None:
        """Send no more, and drop what comes until the peer closes or the time is over."""
        self._deaf = self._leaving = True
        self._reader.waiting.clear()
        self._unread_since = min(self._unread_since, self._loop.time())
        if self._lingers and self._transport.can_write_eof():  # not with TLS
            self._end_our_side()
            self._regulate()
        else:
            self.close()

    def _end_our_side(self) -> None:
        """Once all is sent, say so to the peer. From then on the connection takes nobody's place."""
        if self._is_our_side_over or self._transport.is_closing() or self._transport.get_write_buffer_size():
            return
        self._is_our_side_over = True
        self._owner.leaves(self)
        try:
            self._transport.write_eof()
        except OSError:  # the peer was gone before the answer came
            self.abort()

    def _deliver(self, exchange: Exchange) -> None:
        """Give the application the body that it has asked for, if all of it is here."""
        if exchange.then is None:
            return
        if exchange.body_cost > self._application.max_body_bytes:
            self._refuse_body(exchange, f", where each chunk counts for {CHUNK_COST} more")
        elif exchange.complete:
            then, exchange.then = exchange.then, None
            then(bytes(exchange.body))
        elif not self._going_on:
            self._regulate()

    def _regulate(self) -> None:
        """Read only what can be dealt with."""
        current = self._current
        unasked = current is not None and current.then is None and current.body_cost > MAX_UNREAD_BYTES
        if self._reader.waiting or not self._writable.is_set() or unasked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _refuse(self, error: ExporterError) -> None:
        """Refuse what is malformed or too much in its turn, and take no more."""
        self._deaf = True
        reader, broken = self._reader, self._reader.arriving
        if self._leaving or (broken is None and reader.has_last):
            return  # nobody asks for what comes behind the last request
        _log.warning(error.message)
        if broken is not None and broken is self._current:
            broken.keep_alive = False
            self._refuse_exchange(broken, error)
        elif broken is not None and broken.over:
            self._leave()
        else:
            if reader.waiting and reader.waiting[-1] is broken:
                reader.waiting.pop()
            self._due = error
            self._go_on()

    def _refuse_body(self, exchange: Exchange, why: str) -> None:
        limit = self._application.max_body_bytes
        self._refuse_exchange(exchange, BodyTooLargeError(f"The body is longer than {limit} bytes{why}"))

    def _refuse_exchange(self, exchange: Exchange, error: ExporterError) -> None:
        """Answer in the application's place, which hears of it by `on_end`."""
        reply = self._application.refuse(exchange, error)
        if exchange.started:
            self.abort()
            return
        exchange.refuse(reply)

    def _refuse_connection(self, error: ExporterError) -> None:
        """Answer in no exchange, and end the connection."""
        self._due = None
        exchange = Exchange(self)
        exchange.keep_alive = False
        exchange.answer(self._application.refuse(None, error))
