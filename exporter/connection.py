"""A connection to the exporter: the POSTs that are counted are answered here, all else by ASGI."""

from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from exporter.errors import ExporterError
from exporter.post import Calls, Post, answer
from exporter.protocol import StrictHttpProtocol


class Connection(StrictHttpProtocol):
    """One connection. Requests on it are answered in their order."""

    def __init__(self, calls: Calls, **uvicorns_own: Any) -> None:
        super().__init__(calls.max_connections, **uvicorns_own)
        self._calls = calls

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for an answer any more."""
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

    def _complete(self) -> None:
        if isinstance(self.cycle, Post):
            self.cycle.complete()
        else:
            super()._complete()

    def on_response_complete(self) -> None:
        """An answer was sent: of a client that reads no answers, no more is read."""
        super().on_response_complete()
        if self.flow.write_paused:
            self.flow.pause_reading()

    def send_refusal(self, error: ExporterError) -> None:
        """What is not HTTP or too much is refused in the same shape as the rest, and counted."""
        if self._in_body and isinstance(self.cycle, Post):
            self.cycle.supersede()
        response = self._calls.refuse_connection(error)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        self.transport.write(answer(response.status_code, headers, bytes(response.body)))
        self.transport.close()

    def count_evicted(self) -> None:
        """Count a connection that was closed to make room for this one."""
        self._calls.evicted()

    def resume_writing(self) -> None:
        """The client has read what was sent."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start what uvicorn's pipeline has kept back until now."""
        if isinstance(cycle, Post):
            self.loop.call_soon(cycle.start)  # not at once: hundreds may be refused one after the other
            self.loop.call_soon(cycle.wait)
        else:
            super()._start_asgi_task(cycle, app)


def _path(url: bytes) -> bytes:
    """The path of a URL as the router compares it, decoded: else a POST would get past us to the router."""
    return unquote_to_bytes(httptools.parse_url(url).path or b"")
