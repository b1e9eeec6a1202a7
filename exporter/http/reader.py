"""From the bytes of a connection to requests: httptools parses, this module is stricter and bounds.

httptools (llhttp) itself refuses a second Content-Length, Content-Length beside Transfer-Encoding, folded
headers and spaces before a colon. It lets through what is refused here: a missing or second Host (RFC 9112,
section 3.2), a head without end, and trailers, which would be taken for headers. It skips the body of a
request that asks for another protocol, and would take it for the next request: here the request for another
protocol is ignored, as RFC 9110, section 7.8, allows.
"""

from collections import deque
from typing import Final

import httptools

from exporter.errors import ExporterError, InvalidHttpError, TooManyPipelinedError
from exporter.http.exchange import Exchange, Line

MAX_HEAD_BYTES: Final = 32 * 1024
"""Of a head, of trailers, and of all heads that wait. One that does not end may be longer by one read."""
MAX_HEADERS: Final = 100
"""Of a request: each costs several times its bytes."""
HEADER_COST, CHUNK_COST = 160, 64
"""Bytes that a header counts for beside its own, and a chunk of a body: what they take of memory and time."""
MAX_PIPELINED: Final = 32
"""Requests of a connection that may wait for the answer to the one before them."""


class RequestReader:
    """Reads the requests of one connection."""

    def __init__(self, line: Line, max_body_bytes: int) -> None:
        self._line = line
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Exchange] = deque()
        """The requests whose heads are complete, for the connection to take."""
        self.arriving: Exchange | None = None
        """The request whose head or body is being read."""
        self.in_head = False
        self.has_last = False
        """Whether a request has come whose answer ends the connection."""
        self._upgrades = False
        self._progress = False
        self._unfinished_bytes = 0

    def feed(self, data: memoryview) -> None:
        """Read on. Raises InvalidHttpError or TooManyPipelinedError; then there is no more to read."""
        self._progress = False
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            ours = error.__context__  # what one of the methods below raised
            if isinstance(ours, ExporterError):
                raise ours from None
            raise InvalidHttpError("This is not valid HTTP") from None
        self._unfinished_bytes = 0 if self._progress else self._unfinished_bytes + len(data)
        if self._unfinished_bytes > MAX_HEAD_BYTES:  # the parser keeps a line until it ends
            raise InvalidHttpError("The head or the trailers of the request are too long")

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            self._begin_again_without_upgrade()

    def _begin_again_without_upgrade(self) -> None:
        """Have a fresh parser read the same head without `Upgrade`, and thereby expect the body."""
        self._upgrades = False
        before = self._begun()
        lines = [before.method + b" " + before.target + b" HTTP/" + before.version.encode()]
        lines += [name + b": " + value for name, value in before.headers if name != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.has_last:
            raise InvalidHttpError("Nothing comes behind the last request of a connection")
        self.in_head = True
        self.arriving = Exchange(self._line)

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._begun().target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body, which is ignored."""
        if not self.in_head:
            return
        exchange = self._begun()
        if len(exchange.headers) == MAX_HEADERS:
            raise InvalidHttpError(f"A request has at most {MAX_HEADERS} headers")
        name = name.lower()
        exchange.headers.append((name, value))
        if name == b"content-length":
            exchange.declared_bytes = int(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            exchange.expects_continue = True

    def on_headers_complete(self) -> None:
        """The head is complete: judge it, and let the request wait for its turn."""
        exchange = self._begun()
        exchange.method = self._parser.get_method()
        exchange.version = self._parser.get_http_version()
        if self._parser.should_upgrade():
            if exchange.method == b"CONNECT":
                raise InvalidHttpError("There are no tunnels here")
            self._upgrades = True
            return
        hosts = size = 0
        for name, value in exchange.headers:
            hosts += name == b"host"
            size += len(name) + len(value)
        if hosts > 1 or (not hosts and exchange.version != "1.0"):
            raise InvalidHttpError("A request names one host")
        size += len(exchange.target)
        if size > MAX_HEAD_BYTES:
            raise InvalidHttpError("The head of the request is too long")
        exchange.cost = size + HEADER_COST * len(exchange.headers)
        cost = exchange.cost + sum(waiting.cost for waiting in self.waiting)
        if len(self.waiting) > MAX_PIPELINED or (self.waiting and cost > MAX_HEAD_BYTES):
            raise TooManyPipelinedError(
                f"At most {MAX_PIPELINED} requests, in {MAX_HEAD_BYTES} bytes, may wait on a connection"
            )
        self._progress, self.in_head = True, False
        exchange.keep_alive = exchange.version != "1.0" and self._parser.should_keep_alive()
        self.has_last = not exchange.keep_alive
        self.waiting.append(exchange)

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._begun().body_cost += CHUNK_COST

    def on_body(self, body: bytes) -> None:
        """A piece of a body. What is too much, or comes behind the answer, is thrown away."""
        self._progress = True
        exchange = self._begun()
        exchange.body_cost += len(body)
        if not exchange.over and exchange.body_cost <= self._max_body_bytes:
            exchange.body += body

    def on_message_complete(self) -> None:
        """The end of a request, unless it is read again without its request for another protocol."""
        if not self._upgrades:
            self._progress = True
            self._begun().complete = True
            self.arriving = None

    def _begun(self) -> Exchange:
        assert self.arriving is not None  # noqa: S101 (the parser calls on_message_begin first)
        return self.arriving
