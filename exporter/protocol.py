"""HTTP/1.1 on a socket: uvicorn's protocol on httptools, made as strict as h11 where that matters.

httptools (llhttp) itself refuses a second Content-Length, Content-Length beside Transfer-Encoding, folded
headers and spaces before a colon. It lets through what is refused here: a missing or second Host (RFC 9112,
section 3.2), a head without end, in length or in time, and trailers, which would be taken for headers. It
skips the body of a request that asks for another protocol, and would take it for the next request: here the
wish is ignored, as RFC 9110, section 7.8, allows.

What is malformed is refused behind the answers that are due, and nothing is taken behind a request whose
answer ends the connection (RFC 9112, section 9.6).

Nothing that a peer sends can grow without a bound: connections, the bytes and the lines of a head, and the
requests that wait on a connection for their turn. While one waits, nothing more is read.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.errors import (
    ExporterError,
    InvalidHttpError,
    TooManyConnectionsError,
    TooManyPipelinedError,
)

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100
"""Of a request: each costs several times its bytes."""
MAX_PIPELINED: Final = 32
"""Requests of a connection that may wait for the answer to the one before them."""
HEAD_SECONDS: Final = 10.0
"""Time in which the head of a request must arrive, from its first byte or from the connection's start."""
DRAIN_SECONDS: Final = 30.0
"""Time in which a client must read an answer, from the first moment at which we had to wait for it."""


class _JoiningTransport:
    """Sends the head of an answer together with the first bytes of its body.

    uvicorn writes them one after the other, and each write is a system call and a packet. No body of ours
    begins like a head.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send a head that no body follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        # Asked before: of TLS a transport that is closed twice does not know it any more.
        unread = not self._transport.is_closing() and self._transport.get_write_buffer_size()
        self._transport.close()
        if unread:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._transport.abort)


class StrictHttpProtocol(HttpToolsProtocol):
    """One connection. What is malformed, or too much, is refused, and the connection is closed."""

    _in_head = True
    _in_body = False
    _upgrades = False
    _began = False
    _head_bytes = 0
    _body_bytes = 0
    _deaf = False
    _due_refusal: ExporterError | None = None
    _behind_body = 0
    _chunk_began = False
    _answered_at = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _idle: asyncio.TimerHandle | None = None
    _undrained: asyncio.TimerHandle | None = None

    def __init__(self, max_connections: int, **uvicorns_own: Any) -> None:
        super().__init__(**uvicorns_own)
        self._max_connections = max_connections

    def send_refusal(self, error: ExporterError) -> None:
        """Answer what is malformed or too much in the shape of the service, and close the connection."""
        raise NotImplementedError

    def count_evicted(self) -> None:
        """Count a connection that was closed to make room for this one."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self._socket = transport
        self._joining = _JoiningTransport(transport)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        if len(self.connections) > self._max_connections and not self._make_room():
            self._deaf = True
            self.send_refusal(TooManyConnectionsError("Too many connections are open: try again later"))
            return
        self._answered_at = self.loop.time()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _make_room(self) -> bool:
        """End the connection whose peer we have waited for longest. False if all are being answered."""
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, StrictHttpProtocol)
            and connection is not self
            and connection._is_waited_for()
        ]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection._answered_at)._socket.abort()
        self.count_evicted()
        return True

    def _is_waited_for(self) -> bool:
        """Whether nothing is being done for this connection: its peer has yet to send a request."""
        if self._socket.is_closing() or self.pipeline:
            return False
        return self.cycle is None or self.cycle.response_complete or bool(self.cycle.more_body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        for timer in (self._idle, self._undrained):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; bound the length of heads and trailers, and the time of a head."""
        if self._deaf:
            return  # what came before is still being answered
        self._began = self._chunk_began = False
        self._body_bytes = 0
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            ours = error.__context__  # what one of the methods below raised
            self._refuse(
                ours if isinstance(ours, ExporterError) else InvalidHttpError("This is not valid HTTP")
            )
            return
        if not self._in_head:
            self._stop_waiting()
            self._bound_what_is_no_body(len(data))
        elif not self._socket.is_closing():
            self._head_bytes += self._of_the_head(data) if self._began else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(InvalidHttpError("The head of the request is too long"))
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _bound_what_is_no_body(self, received: int) -> None:
        """Trailers, and extensions of chunks: the parser keeps a line of them until it ends."""
        if not self._in_body or self._body_bytes or self._chunk_began:
            self._behind_body = 0
            return
        self._behind_body += received
        if self._behind_body > MAX_HEAD_BYTES:
            self._refuse(InvalidHttpError("The trailers of the request are too long"))

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                self._begin_again_without_upgrade()
            else:
                return

    def _begin_again_without_upgrade(self) -> None:
        """Have a fresh parser read the same head without the wish, and thereby expect the body."""
        self._upgrades = False
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _refuse(self, error: ExporterError) -> None:
        """Refuse what is malformed or too much in its turn, and take no more."""
        self.logger.warning(error.message)
        self._deaf = True
        self._stop_waiting()
        last = self.cycle
        if self._socket.is_closing():
            return
        if self._in_body:  # it is `last` that is malformed
            if self.pipeline:
                self.pipeline.popleft()
                self._due_refusal = error
            elif last.response_started or last.response_complete:
                self.transport.close()
            else:
                self.send_refusal(error)
        elif last is None or (last.response_complete and last.keep_alive):
            self.send_refusal(error)
        elif last.keep_alive:  # else nobody asks for what comes behind it
            self._due_refusal = error

    def on_message_begin(self) -> None:
        """A request begins. What ASGI wants to know of it waits until its head is known to be sound."""
        self._in_head = self._began = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body, which is ignored."""
        if self._in_head:
            if len(self.headers) == MAX_HEADERS:
                raise InvalidHttpError(f"A request has at most {MAX_HEADERS} headers")
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """The head is complete: refuse it, or hand the request over."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise InvalidHttpError("There are no tunnels here")
            self._upgrades = True
            return
        self._in_head = False
        if self._socket.is_closing() or (self.cycle is not None and not self.cycle.keep_alive):
            raise InvalidHttpError("Nothing comes behind the last request of a connection")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            raise InvalidHttpError("A request names one host")
        if len(self.pipeline) == MAX_PIPELINED:
            raise TooManyPipelinedError(f"At most {MAX_PIPELINED} requests may wait on a connection")
        self._hand_over()
        self._in_body = True

    def on_chunk_header(self) -> None:
        """A chunk of a body begins, or its trailers."""
        self._chunk_began = True

    def on_message_complete(self) -> None:
        """The end of a request, unless it is read again without its wish for another protocol."""
        if not self._upgrades:
            self._in_body = False
            self._complete()

    def _complete(self) -> None:
        super().on_message_complete()

    def _hand_over(self) -> None:
        """Have a request with a sound head answered: by the ASGI application."""
        url, headers, expected = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expected
        self.headers += headers  # the list that is in the scope
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer was sent: the next request's turn, or the end of a connection on which none comes."""
        self._joining.flush()
        self._answered_at = self.loop.time()
        if not self.flow.write_paused:
            self._stop_draining()
        if self.pipeline or self._socket.is_closing():
            super().on_response_complete()
            if self.pipeline:
                self.flow.pause_reading()  # uvicorn has just resumed it
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self._due_refusal is not None:
            self.send_refusal(self._due_refusal)
        else:
            self._watch_idle()

    def pause_writing(self) -> None:
        """The client reads more slowly than is sent to it: bound its time for the whole answer."""
        super().pause_writing()
        if self._undrained is None:
            self._undrained = self.loop.call_later(DRAIN_SECONDS, self._socket.abort)

    def resume_writing(self) -> None:
        """The client has read what was sent so far."""
        super().resume_writing()
        if self.cycle is not None and self.cycle.response_complete:
            self._stop_draining()

    def _stop_draining(self) -> None:
        if self._undrained is not None:
            self._undrained.cancel()
            self._undrained = None

    def _watch_idle(self) -> None:
        """uvicorn's timer is set for every request and cancelled by whatever comes, be it no request at all.

        This one looks when it was last needed, and also ends a request that goes on behind its answer.
        """
        if self._idle is None:
            due = self._answered_at + self.timeout_keep_alive
            self._idle = self.loop.call_at(due, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle = None
        if self._in_head or not self.cycle.response_complete:
            return  # the answer to what is under way begins to watch anew
        if self.loop.time() < self._answered_at + self.timeout_keep_alive:
            self._watch_idle()
        else:
            self.transport.close()

    def _of_the_head(self, data: bytes) -> int:
        """How much of `data` belongs to the head at its end, which other requests may come before."""
        other_heads = data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
        return max(0, len(data) - other_heads - self._body_bytes)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
