"""A connection to the exporter: the POSTs that are counted are answered here, all else by ASGI."""

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from exporter.post import Calls, Post
from exporter.protocol import StrictHttpProtocol


class Connection(StrictHttpProtocol):
    """One connection. Requests on it are answered in their order."""

    _socket: (
        asyncio.Transport
    )  # under `transport`, which joins head and body: those of a POST need no joining
    _idle: asyncio.TimerHandle | None = None
    _answered_at = 0.0

    def __init__(self, calls: Calls, **uvicorns_own: Any) -> None:
        super().__init__(**uvicorns_own)
        self._calls = calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self._socket = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for an answer any more."""
        if self._idle is not None:
            self._idle.cancel()
        if isinstance(self.cycle, Post):
            self.cycle.lose()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; bound the time of a body that is not complete."""
        super().data_received(data)
        if isinstance(self.cycle, Post):
            self.cycle.wait()

    def _hand_over(self) -> None:
        path = self.url if self._calls.takes(self.url) else _path(self.url)
        if self.parser.get_method() != b"POST" or not self._calls.takes(path):
            super()._hand_over()
            return
        before = self.cycle
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.cycle = post = Post(self, self._socket, self._calls, path, keep_alive)
        if before is None or before.response_complete:
            post.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((post, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if isinstance(self.cycle, Post):
            self._body_bytes += len(body)
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
        if self.pipeline or not isinstance(self.cycle, Post) or self._socket.is_closing():
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
            self._socket.close()


def _path(url: bytes) -> bytes:
    """The path of a URL as the router compares it, decoded: else a POST would get past us to the router."""
    return unquote_to_bytes(httptools.parse_url(url).path or b"")
