"""HTTP/1.1 on a socket: uvicorn's protocol on httptools, made as strict as h11 where that matters.

httptools (llhttp) itself refuses a second Content-Length, Content-Length beside Transfer-Encoding, folded
headers and spaces before a colon. It lets through what is refused here: a missing or second Host (RFC 9112,
section 3.2), a head without end, in length or in time, and trailers, which would be taken for headers.

The POSTs that are counted are handled here (`post.py`), everything else by the ASGI application.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from exporter.post import Calls, Post

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 10.0
"""Time in which the head of a request must arrive, from its first byte or from the connection's start."""


class StrictHttpProtocol(HttpToolsProtocol):
    """One connection. What is malformed is answered with 400, and the connection is closed."""

    _in_head = True
    _began = False
    _head_bytes = 0
    _body_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _idle: asyncio.TimerHandle | None = None
    _answered_at = 0.0

    def __init__(self, calls: Calls, **uvicorns_own: Any) -> None:
        super().__init__(**uvicorns_own)
        self._calls = calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        if self._idle is not None:
            self._idle.cancel()
        if isinstance(self.cycle, Post):
            self.cycle.lose()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; bound the length and the time of a head, and the time of a body, not complete."""
        self._began = False
        self._body_bytes = 0
        super().data_received(data)
        if not self._in_head:
            self._stop_waiting()
            if isinstance(self.cycle, Post):
                self.cycle.wait()
        elif not self.transport.is_closing():
            self._head_bytes += self._of_the_head(data) if self._began else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        """A request begins. What ASGI wants to know of it waits until it is known to be for ASGI."""
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
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version != "1.0"):
            raise ValueError("a request names one host")  # httptools turns it into its own error: 400
        path = self.url if self._calls.takes(self.url) else httptools.parse_url(self.url).path
        if self.parser.get_method() != b"POST" or not self._calls.takes(path):
            self._hand_to_asgi()
            return
        before = self.cycle
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = post = Post(self, self._calls, path, keep_alive)
        if before is None or before.response_complete:
            post.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((post, self.app))

    def _hand_to_asgi(self) -> None:
        url, headers, expected = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expected
        self.headers += headers  # the list that is in the scope
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._body_bytes += len(body)
        if isinstance(self.cycle, Post):
            self.cycle.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if isinstance(self.cycle, Post):
            self.cycle.complete()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was sent: the next request's turn, or the end of a connection on which none comes."""
        self._answered_at = self.loop.time()
        if self.pipeline or not isinstance(self.cycle, Post) or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._watch_idle()
        if self.flow.write_paused:
            self.flow.pause_reading()  # of a client that reads no answers, no more is read

    def resume_writing(self) -> None:
        """The client has read what was sent."""
        super().resume_writing()
        self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start what uvicorn's pipeline has kept back until now."""
        if isinstance(cycle, Post):
            self.loop.call_soon(cycle.start)  # not at once: hundreds may be refused one after the other
            self.loop.call_soon(cycle.wait)
        else:
            super()._start_asgi_task(cycle, app)

    def _watch_idle(self) -> None:
        """uvicorn's timer is set and cancelled for every request; this one looks when it was last needed."""
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
