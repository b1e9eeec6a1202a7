"""The HTTP application: the routes, and the one table from exceptions to status and error code."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

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
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter import errors
from exporter.errors import ExporterError, IdempotencyKeyMissingError, StorageError
from exporter.http import (
    Head,
    RequestId,
    authenticate,
    failure,
    head_of,
    read_json_body,
    send_success,
    success,
)
from exporter.ingest import Outcome
from exporter.monitoring import SelfMonitoring
from exporter.render import render
from exporter.service import Service
from exporter.settings import Settings

STATUS_AND_CODE: dict[type[ExporterError], tuple[int, str]] = {
    errors.InvalidJsonError: (400, "invalid_json"),
    errors.IdempotencyKeyMissingError: (400, "idempotency_key_missing"),
    errors.UnauthenticatedError: (401, "unauthenticated"),
    errors.TokenInvalidError: (401, "token_invalid"),
    errors.BodyIncompleteError: (408, "body_incomplete"),
    errors.BodyTooLargeError: (413, "body_too_large"),
    errors.UnsupportedMediaTypeError: (415, "unsupported_media_type"),
    errors.UnsupportedEncodingError: (415, "unsupported_encoding"),
    errors.InvalidRequestError: (422, "invalid_request"),
    errors.LabelNotAllowedError: (422, "label_not_allowed"),
    errors.IdempotencyKeyReusedError: (422, "idempotency_key_reused"),
    errors.StorageBusyError: (503, "storage_busy"),
    errors.StorageFullError: (503, "storage_full"),
    errors.StorageFailedError: (503, "storage_failed"),
}
"""Every error a call on purpose answers with; `not_found` and `method_not_allowed` come from the router."""

RETRY_AFTER_SECONDS = "1"

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")

_log = structlog.get_logger("exporter.app")


class Application:
    """The exporter as an ASGI application. It holds the state folder until its lifespan ends."""

    def __init__(self, routes: ASGIApp, posts: Mapping[str, ASGIApp], service: Service) -> None:
        self._routes = routes
        self._posts = posts
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        application = self._routes
        if scope["type"] == "http" and scope["method"] == "POST":
            application = self._posts.get(scope["path"], self._routes)
        await application(scope, receive, send)

    def reload_policy(self) -> None:
        """Read the label policy anew, as on SIGHUP. Call in the event loop."""
        self._service.reload_policy()


def create_app(settings: Settings, registry: CollectorRegistry, clock: Callable[[], float]) -> Application:
    """The application, its state recovered from the state folder.

    `registry` takes the exporter's metrics on itself; `clock` gives Unix seconds. Raises StartError.
    """
    tokens = settings.read_tokens()
    monitoring = SelfMonitoring(registry, tuple(code for _, code in STATUS_AND_CODE.values()))
    service = Service(settings, monitoring, clock)
    calls = _Calls(settings, tokens, service, monitoring, registry)

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
            Route("/metrics", calls.metrics),
            Route("/-/healthy", calls.healthy),
            Route("/-/ready", calls.ready),
        ],
        middleware=[Middleware(RequestId)],
        exception_handlers={
            ExporterError: calls.refuse,
            HTTPException: _refuse_route,
            Exception: _internal_error,
        },
        lifespan=lifespan,
    )

    posts = {"/v1/push": RequestId(calls.push), "/v1/observations": RequestId(calls.observations)}
    return Application(starlette, posts, service)


class _Calls:
    """The handlers of all routes."""

    def __init__(
        self,
        settings: Settings,
        tokens: Sequence[SecretStr],
        service: Service,
        monitoring: SelfMonitoring,
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._tokens = [token.get_secret_value().encode() for token in tokens]
        self._service = service
        self._monitoring = monitoring
        self._registry = registry

    async def push(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._ingest(scope, receive, send, lambda _: self._service.ingest.push)

    async def observations(self, scope: Scope, receive: Receive, send: Send) -> None:
        def under_its_key(head: Head) -> Callable[[bytes], Awaitable[Outcome]]:
            key = head.get(b"idempotency-key", b"").decode("latin-1")
            if not _IDEMPOTENCY_KEY.fullmatch(key):
                raise IdempotencyKeyMissingError(
                    "Send an Idempotency-Key of 1 to 128 visible ASCII characters"
                )
            return partial(self._service.ingest.observe, key)

        await self._ingest(scope, receive, send, under_its_key)

    async def _ingest(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        way_in: Callable[[Head], Callable[[bytes], Awaitable[Outcome]]],
    ) -> None:
        """A POST without Starlette's router and middlewares, which cost more than the counting."""
        head = head_of(scope)
        try:
            authenticate(head, self._tokens)
            data = await self._count(head, receive, way_in(head))
        except ExporterError as error:
            response = await self.refuse(Request(scope), error)
        except Exception as error:  # noqa: BLE001 (as Starlette does for the other calls)
            response = await _internal_error(Request(scope), error)
        else:
            await send_success(scope, send, data)
            return
        await response(scope, receive, send)

    async def _count(
        self, head: Head, receive: Receive, ingest: Callable[[bytes], Awaitable[Outcome]]
    ) -> dict[str, Any]:
        body = await read_json_body(
            head, receive, self._settings.max_body_bytes, self._settings.body_timeout_seconds
        )
        outcome = await ingest(body)
        self._monitoring.pushed("duplicate" if outcome.duplicate else "accepted")
        self._monitoring.dropped(outcome.dropped)
        return {"duplicate": outcome.duplicate, "journal": self._service.journal}

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
        return success(request, {"status": "healthy"})

    async def ready(self, request: Request) -> Response:
        if not self._service.ready:
            raise errors.StorageFailedError("The last write to the journal failed")
        return success(request, {"status": "ready", "journal": self._service.journal})

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer a call that raised one of the errors in STATUS_AND_CODE."""
        assert isinstance(error, ExporterError)  # noqa: S101 (registered for nothing else)
        status, code = STATUS_AND_CODE[type(error)]
        if request.method == "POST":
            self._monitoring.rejected(code)
            self._monitoring.pushed("failed" if isinstance(error, StorageError) else "rejected")
        headers = {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if status == 503:
            headers["retry-after"] = RETRY_AFTER_SECONDS
        return failure(request, status, code, error.message, error.details, headers)


async def _only_post(request: Request) -> Response:
    """Stands in the router for the calls that go past it, so that other methods are answered with 405."""
    raise NotImplementedError(request.method)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for nothing else)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return failure(request, error.status_code, code, error.detail, {}, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    headers = {"x-request-id": request.state.request_id}  # this handler runs outside the middleware
    _log.error("internal_error", request_id=request.state.request_id, path=request.url.path, exc_info=error)
    return failure(
        request, 500, "internal_error", "The exporter failed; its log has this request_id", {}, headers
    )


async def _gzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(level=1, wbits=31)
    async for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()
