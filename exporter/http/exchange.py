"""One request and its answer, between a connection and the application."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from math import inf
from typing import NamedTuple, Protocol

import httptools

from exporter.errors import InvalidHttpError

Header = tuple[bytes, bytes]

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_WITHOUT_BODY = frozenset({204, 304})


class Reply(NamedTuple):
    """A whole answer. `Content-Length` and `Connection` are not among the headers."""

    status: int
    headers: list[Header]
    body: bytes


class Line(Protocol):
    """What an exchange needs of its connection."""

    waiting_since: float

    @property
    def date(self) -> bytes:
        """The value of the header."""

    def write(self, data: bytes) -> None:
        """Send bytes, or hold them until the peer reads."""

    def read_on(self, exchange: "Exchange") -> None:
        """Read the body that the application has asked for."""

    def finished(self, exchange: "Exchange") -> None:
        """The answer is complete."""

    async def drain(self) -> None:
        """Return when the peer has read so much that more can be sent, or is gone."""

    def abort(self) -> None:
        """End the connection at once."""


class Exchange:
    """One request, and the application's way to answer it."""

    method = target = b""
    version = "1.1"
    expects_continue = False
    declared_bytes = 0
    """The length that the head gives for the body."""
    cost = body_cost = 0
    """What the head and the body count for, in bytes (see `reader.py`)."""
    complete = False
    """Whether all of the body is here."""
    keep_alive = True
    """Whether another request may follow on the connection."""
    read_since = inf
    """When the application asked for the body, by the loop's clock."""
    started = False
    """Whether the answer has begun."""
    over = False
    """Whether there is no more to say: the answer is complete, or nobody will read one."""
    on_end: Callable[[], object] | None = None
    """Called when it ends otherwise than by the application's answer, as when the peer is gone."""
    then: Callable[[bytes], None] | None = None
    """What waits for the body."""
    _head = b""
    _chunked = False

    def __init__(self, line: Line) -> None:
        self._line = line
        self.headers: list[Header] = []
        """Names in small letters, in the order in which they came."""
        self.body = bytearray()

    def path_and_query(self) -> tuple[bytes, bytes]:
        """Both of the target, as they were sent. Raises InvalidHttpError."""
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError:
            raise InvalidHttpError("The target of the request is not valid") from None
        return url.path or b"/", url.query or b""

    @property
    def waiting_since(self) -> float:
        """Since when its peer keeps the answer waiting, by the loop's clock; infinity if it does not."""
        return self._line.waiting_since

    def read(self, then: Callable[[bytes], None]) -> None:
        """Call `then` with the body when all of it is here, which may be now. Call once.

        The connection refuses a body that is too long, late or malformed.
        """
        if not self.over:
            self.then = then
            self._line.read_on(self)

    def answer(self, reply: Reply) -> None:
        """Send a whole answer."""
        if not self.over:
            self.start(reply.status, [*reply.headers, (b"content-length", b"%d" % len(reply.body))])
            self.write(reply.body)
            self.finish()

    def start(self, status: int, headers: Iterable[Header]) -> None:
        """Begin an answer. Its head is sent with the first piece of its body."""
        self.started = True
        lines = [_STATUS_LINES[status], b"date: " + self._line.date]
        sized = status in _WITHOUT_BODY or self.method == b"HEAD"
        for name, value in headers:
            if name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            lines.append(name + b": " + value)
            sized = sized or name == b"content-length"
        if not sized and self.version != "1.0":  # whose answers end with the connection anyway
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            lines.append(b"connection: close")
        self._head = b"\r\n".join([*lines, b"", b""])
        if self._head.count(b"\n") != len(lines) + 1:
            raise ValueError("a header of an answer holds a line break")

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""
        if self.over or not piece or self.method == b"HEAD":
            return
        if self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        self._line.write(self._head + piece)
        self._head = b""

    def finish(self) -> None:
        """The answer is complete."""
        if self.over:
            return
        if end := self._head + (b"0\r\n\r\n" if self._chunked else b""):
            self._line.write(end)
        self._forget()
        self._line.finished(self)

    async def drain(self) -> None:
        """Return when more can be sent, or nobody reads any more."""
        await self._line.drain()

    def refuse(self, reply: Reply) -> None:
        """Send a whole answer that is not the application's. Called by the connection."""
        on_end = self.on_end
        self.answer(reply)
        if on_end is not None:
            on_end()

    def end(self) -> None:
        """There will be no answer of the application. Called by the connection."""
        on_end = self.on_end
        self._forget()
        if on_end is not None:
            on_end()

    def abort(self) -> None:
        """End the connection at once."""
        self._line.abort()

    def _forget(self) -> None:
        """Let go of the body now, not when the garbage collector finds the cycle that `on_end` makes."""
        self.over = True
        self.on_end = self.then = None
        self.body = bytearray()
