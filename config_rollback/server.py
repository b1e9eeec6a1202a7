"""ASGI on the connections of `exporter.http`, and what they refuse in the shape of this service."""

from __future__ import annotations

import asyncio
from math import inf
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp, Message, Scope

from config_rollback import errors
from config_rollback.metrics import Metrics
from config_rollback.web.http import MAX_BODY_BYTES, error_json, new_request_id
from config_rollback.web.middleware import RAW_SECURITY_HEADERS
from exporter.errors import BodyTooLargeError, ExporterError, TooManyConnectionsError, TooManyPipelinedError
from exporter.http.exchange import Exchange, Reply

_OURS: dict[type[ExporterError], type[errors.ConfigRollbackError]] = {
    BodyTooLargeError: errors.BodyTooLargeError,
    TooManyConnectionsError: errors.TooManyConnectionsError,
    TooManyPipelinedError: errors.TooManyPipelinedError,
}

log = structlog.get_logger(__name__)


class AsgiServer:
    """Answers requests by an ASGI application (`exporter.http.connection.Application`)."""

    max_body_bytes = MAX_BODY_BYTES + 64 * 1024  # of what is little too long, `web.http` says so on a page
    body_seconds = inf  # `web.http` bounds what it reads, and nothing else is read

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Exchange) -> None:
        """Let the application answer a request."""
        try:
            call = _Call(exchange)
        except ExporterError as error:
            exchange.answer(self.refuse(exchange, error))
            return
        task = asyncio.create_task(call.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refuse(self, exchange: Exchange | None, error: ExporterError) -> Reply:  # noqa: ARG002
        """What is not HTTP (a double Content-Length, a bare line break, no Host), or over a bound."""
        ours = _OURS.get(type(error), errors.MalformedRequestError)(error.message)
        self._metrics.refused(ours)
        request_id = new_request_id(None)
        response = error_json(ours, request_id)
        headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        headers += [*RAW_SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        return Reply(response.status_code, headers, bytes(response.body))

    async def close(self, seconds: float) -> None:
        """Wait for calls whose clients are gone: they use what the application closes next."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def evicted(self) -> None:
        """A connection was ended to make room for another."""
        self._metrics.connections_evicted.inc()


class _Call:
    """One call of the application."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._body: bytes | None = None
        self._asked = self._delivered = False
        self._scope = _scope(exchange)
        self._changed = asyncio.Event()
        exchange.on_end = self._changed.set

    async def run(self, app: ASGIApp) -> None:
        """Call it. Where it does not answer, the connection ends."""
        try:
            await app(self._scope, self._receive, self._send)
        except Exception:
            log.exception("request_failed")
        finally:
            if not self._exchange.over:
                self._exchange.abort()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            self._exchange.read(self._arrived)
        while not self._exchange.over:
            if self._body is not None and not self._delivered:
                self._delivered = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            self._changed.clear()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    def _arrived(self, body: bytes) -> None:
        self._body = body
        self._changed.set()

    async def _send(self, message: Message) -> None:
        exchange = self._exchange
        if exchange.over:
            return
        if message["type"] == "http.response.start":
            exchange.start(message["status"], message.get("headers", ()))
            return
        exchange.write(message.get("body", b""))
        if message.get("more_body", False):
            await exchange.drain()
        else:
            exchange.finish()
            self._changed.set()


def _scope(exchange: Exchange) -> Scope:
    """What ASGI knows of a request. Raises InvalidHttpError."""
    raw_path, query = exchange.path_and_query()
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.version,
        "method": exchange.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": exchange.headers,
        "server": None,
        "client": None,
    }
