"""HTTP/1.1 on a socket: uvicorn's protocol on httptools, made as strict as h11 where that matters.

httptools (llhttp) itself refuses a second Content-Length, Content-Length beside Transfer-Encoding, folded
headers and spaces before a colon. It lets through what is refused here: a missing or second Host (RFC 9112,
section 3.2), a head without end, in length or in time, and trailers, which would be taken for headers.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 10.0
"""Time in which the head of a request must arrive, from its first byte or from the connection's start."""


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
        self._transport.close()


class StrictHttpProtocol(HttpToolsProtocol):
    """One connection. What is malformed is answered with 400, and the connection is closed."""

    _in_head = True
    _began = False
    _head_bytes = 0
    _body_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self._joining = _JoiningTransport(transport)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; bound the length and the time of a head that is not complete."""
        self._began = False
        self._body_bytes = 0
        super().data_received(data)
        if not self._in_head:
            self._stop_waiting()
        elif not self.transport.is_closing():
            self._head_bytes += self._of_the_head(data) if self._began else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

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
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """The head is complete: refuse it, or hand the request over."""
        self._in_head = False
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            raise ValueError("a request names one host")  # httptools turns it into its own error: 400
        self._hand_over()

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
        """The application has sent its answer."""
        self._joining.flush()
        super().on_response_complete()

    def _of_the_head(self, data: bytes) -> int:
        """How much of `data` belongs to the head at its end, which other requests may come before."""
        other_heads = data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
        return max(0, len(data) - other_heads - self._body_bytes)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
