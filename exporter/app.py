"""The HTTP application: the routes, and the one table from exceptions to status and error code."""

import asyncio
import math
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter import catalogue, errors
from exporter.errors import ExporterError, IdempotencyKeyMissingError, StorageError
from exporter.http import (
    Head,
    RequestId,
    authenticate,
    expect_json,
    failure,
    request_id_of,
    success,
)
from exporter.ingest import Outcome
from exporter.monitoring import SelfMonitoring
from exporter.post import Count
from exporter.render import render
from exporter.service import Service
from exporter.settings import Settings

STATUS_AND_CODE: dict[type[ExporterError], tuple[int, str]] = {
    errors.InvalidHttpError: (400, "invalid_http"),
    errors.InvalidJsonError: (400, "invalid_json"),
    errors.IdempotencyKeyMissingError: (400, "idempotency_key_missing"),
    errors.UnauthenticatedError: (401, "unauthenticated"),
    errors.TokenInvalidError: (401, "token_invalid"),
    errors.BodyIncompleteError: (408, "body_incomplete"),
    errors.BodyTooLargeError: (413, "body_too_large"),
    errors.TooManyConnectionsError: (429, "too_many_connections"),
    errors.TooManyPipelinedError: (429, "too_many_pipelined"),
    errors.TooManyScrapesError: (429, "too_many_scrapes"),
    errors.UnsupportedMediaTypeError: (415, "unsupported_media_type"),
    errors.UnsupportedEncodingError: (415, "unsupported_encoding"),
    errors.InvalidRequestError: (422, "invalid_request"),
    errors.LabelNotAllowedError: (422, "label_not_allowed"),
    errors.IdempotencyKeyReusedError: (422, "idempotency_key_reused"),
    errors.StorageBusyError: (503, "storage_busy"),
    errors.StorageFullError: (503, "storage_full"),
    errors.StorageLostError: (503, "storage_lost"),
    errors.StorageFailedError: (503, "storage_failed"),
}
"""Every error a call on purpose answers with; those of the router are below."""

ROUTER_CODES = {404: "not_found", 405: "method_not_allowed"}

RETRY_AFTER_SECONDS = "1"

MAX_SCRAPES = 8
"""Scrapes at once: each holds a copy of all counters until its answer is read."""
SCRAPE_TRIES, SCRAPE_TRY_SECONDS = 100, 0.05
"""How often a scrape looks for a place while all are taken and none waits for its reader."""

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")

_log = structlog.get_logger("exporter.app")


def create_app(
    settings: Settings,
    registry: CollectorRegistry,
    clock: Callable[[], float],
    monotonic: Callable[[], float] = time.monotonic,
) -> "Application":
    """The application, its state recovered from the state folder.

    `registry` takes the exporter's metrics on itself; `clock` gives Unix seconds, and may jump; `monotonic`
    gives seconds that never do. Raises StartError.
    """
    tokens = _encoded(settings.read_tokens())
    codes = (*(code for _, code in STATUS_AND_CODE.values()), *ROUTER_CODES.values())
    monitoring = SelfMonitoring(registry, codes)
    service = Service(settings, monitoring, clock, monotonic)
    posts = Posts(settings, tokens, service, monitoring)
    reads = _Reads(service, registry)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        _log.info("exporter_started", journal=service.journal)
        yield
        await service.stop()
        _log.info("exporter_stopped", journal=service.journal)

    starlette = Starlette(
        routes=[
            Route("/v1/push", _only_post, methods=["POST"]),
            Route("/v1/observations", _only_post, methods=["POST"]),
            Route("/metrics", reads.metrics, middleware=[Middleware(_Scrapes, monitoring)]),
            Route("/-/healthy", reads.healthy),
            Route("/-/ready", reads.ready),
        ],
        middleware=[Middleware(RequestId)],
        exception_handlers={
            ExporterError: _refuse,
            HTTPException: partial(_refuse_route, monitoring),
            Exception: _internal_error,
        },
        lifespan=lifespan,
    )
    starlette.router.redirect_slashes = False

    def reload() -> None:
        service.reload_policy()
        posts.reload_tokens()

    return Application(starlette, posts, reload)


class Application(NamedTuple):
    """The exporter. It holds the state folder until the lifespan of `asgi` ends."""

    asgi: Starlette
    posts: "Posts"
    """The POSTs, which the connection hands over without ASGI; `connection.py` says how."""
    reload: Callable[[], None]
    """Reads the label policy and the file of tokens anew, as on SIGHUP. Call in the event loop."""


class Posts:
    """The calls that count: `post.Calls`."""

    def __init__(
        self, settings: Settings, tokens: Sequence[bytes], service: Service, monitoring: SelfMonitoring
    ) -> None:
        self.max_connections = settings.max_connections
        self.max_body_bytes = settings.max_body_bytes
        self.body_timeout_seconds = settings.body_timeout_seconds
        self._settings = settings
        self._tokens = tokens
        self._service = service
        self._monitoring = monitoring
        self._ways_in: dict[bytes, Callable[[Head], Count]] = {
            b"/v1/push": lambda _: service.ingest.push,
            b"/v1/observations": self._under_its_key,
        }

    def reload_tokens(self) -> None:
        """Read the file of tokens anew; keep those in force if it is unusable."""
        if self._settings.ingest_tokens_file is None:
            return
        try:
            tokens = self._settings.read_tokens()
        except errors.SettingsError as error:
            self._monitoring.tokens_reloaded(successful=False)
            _log.error("tokens_kept", reason=error.message)
            return
        self._tokens = _encoded(tokens)
        self._monitoring.tokens_reloaded(successful=True)
        _log.info("tokens_reloaded", tokens=len(tokens))

    def takes(self, path: bytes) -> bool:
        """Whether a POST to this path is counted."""
        return path in self._ways_in

    def admit(self, path: bytes, head: Head) -> Count:
        """Check token, media type and, for observations, the idempotency key. Raises RequestRefusedError."""
        authenticate(head, self._tokens)
        expect_json(head)
        return self._ways_in[path](head)

    def counted(self, outcome: Outcome) -> dict[str, object]:
        """The `data` of the answer."""
        self._monitoring.pushed("duplicate" if outcome.duplicate else "accepted")
        self._monitoring.dropped(outcome.dropped)
        return {"duplicate": outcome.duplicate, "journal": self._service.journal}

    def refuse(self, request_id: str, error: Exception) -> Response:
        """The answer to a call that raised; anything but an ExporterError is a defect."""
        if not isinstance(error, ExporterError):
            return _defect(request_id, error)
        self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])
        self._monitoring.pushed("failed" if isinstance(error, StorageError) else "rejected")
        return _refusal(request_id, error)

    def refuse_connection(self, error: ExporterError) -> Response:
        """The answer to what is not HTTP, or to one connection or request too many."""
        self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])
        request_id = request_id_of({})
        response = _refusal(request_id, error)
        response.headers["x-request-id"] = request_id
        return response

    def evicted(self) -> None:
        """A connection was closed to make room for another."""
        self._monitoring.evicted(catalogue.CONNECTION)

    def _under_its_key(self, head: Head) -> Count:
        key = head.get(b"idempotency-key", b"").decode("latin-1")
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            raise IdempotencyKeyMissingError("Send an Idempotency-Key of 1 to 128 visible ASCII characters")
        return partial(self._service.ingest.observe, key)


def _encoded(tokens: Sequence[SecretStr]) -> list[bytes]:
    return [token.get_secret_value().encode() for token in tokens]


class _Scrapes:
    """Lets so many scrapes in at once; one more takes the place of that whose reader is slowest."""

    def __init__(self, app: ASGIApp, monitoring: SelfMonitoring) -> None:
        self._app = app
        self._monitoring = monitoring
        self._running: dict[asyncio.Task[None], float] = {}
        """Since when each waits for its reader, by the loop's clock; infinity for those that do not wait."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self._take_place():
            error = errors.TooManyScrapesError(f"{MAX_SCRAPES} scrapes are being answered: try again later")
            self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])
            await _refusal(scope["state"]["request_id"], error)(scope, receive, send)
            return
        this = asyncio.current_task()
        assert this is not None  # noqa: S101 (a coroutine runs in one; for the type checker)
        self._running[this] = math.inf

        async def send_and_note(message: Message) -> None:
            self._running[this] = asyncio.get_running_loop().time()
            await send(message)
            self._running[this] = math.inf

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._running.pop(this, None)

    async def _take_place(self) -> bool:
        """Whether there is a place. Waits a while for one that is done, or that its reader keeps waiting."""
        for _ in range(SCRAPE_TRIES):
            if len(self._running) < MAX_SCRAPES or self._make_room():
                return True
            await asyncio.sleep(SCRAPE_TRY_SECONDS)
        return False

    def _make_room(self) -> bool:
        slowest = min(self._running, key=lambda scrape: self._running[scrape])
        if self._running[slowest] == math.inf:
            return False
        del self._running[slowest]
        slowest.cancel()
        self._monitoring.evicted(catalogue.SCRAPE)
        return True


class _Reads:
    """The handlers of what Prometheus and people ask."""

    def __init__(self, service: Service, registry: CollectorRegistry) -> None:
        self._service = service
        self._registry = registry

    async def metrics(self, request: Request) -> Response:
        own_metrics, content_type = choose_encoder(request.headers.get("accept", ""))
        openmetrics = content_type.startswith("application/openmetrics-text")

        async def exposition() -> AsyncIterator[bytes]:
            for chunk in render(self._service.view(), openmetrics):
                yield chunk.encode()
                await asyncio.sleep(0)  # lets pushes through
            yield own_metrics(self._registry)

        headers = {"content-type": content_type, "vary": "Accept, Accept-Encoding"}
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return StreamingResponse(_gzip(exposition()), headers=headers)
        return StreamingResponse(exposition(), headers=headers)

    async def healthy(self, request: Request) -> Response:
        return success(request.state.request_id, {"status": "healthy"})

    async def ready(self, request: Request) -> Response:
        if not self._service.ready:
            raise errors.StorageFailedError("The last write to the journal failed")
        return success(request.state.request_id, {"status": "ready", "journal": self._service.journal})


def _refusal(request_id: str, error: ExporterError) -> Response:
    """Answer a call that raised one of the errors in STATUS_AND_CODE."""
    status, code = STATUS_AND_CODE[type(error)]
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (429, 503):
        headers["retry-after"] = RETRY_AFTER_SECONDS
    return failure(request_id, status, code, error.message, error.details, headers)


def _defect(request_id: str, error: Exception) -> Response:
    _log.error("internal_error", request_id=request_id, exc_info=error)
    return failure(request_id, 500, "internal_error", "The exporter failed; its log has this request_id", {})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ExporterError)  # noqa: S101 (registered for nothing else)
    return _refusal(request.state.request_id, error)


async def _only_post(request: Request) -> Response:
    """Stands in the router for the calls that go past it, so that other methods are answered with 405."""
    raise NotImplementedError(request.method)


async def _refuse_route(monitoring: SelfMonitoring, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for nothing else)
    code = ROUTER_CODES[error.status_code]
    if request.method not in ("GET", "HEAD"):  # it may have brought what should have been counted
        monitoring.rejected(code)
    return failure(request.state.request_id, error.status_code, code, error.detail, {}, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    response = _defect(request.state.request_id, error)
    response.headers["x-request-id"] = request.state.request_id  # this handler runs outside the middleware
    return response


async def _gzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(level=1, wbits=31)
    async for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()
