"""The HTTP application: the routes, and the one table from exceptions to status and error code."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from exporter import errors
from exporter.errors import ExporterError, IdempotencyKeyMissing, StorageError
from exporter.http import RequestId, authenticate, failure, read_json_body, success
from exporter.ingest import Outcome
from exporter.monitoring import SelfMonitoring
from exporter.render import render
from exporter.service import Service
from exporter.settings import Settings

STATUS_AND_CODE: dict[type[ExporterError], tuple[int, str]] = {
    errors.InvalidJson: (400, "invalid_json"),
    errors.IdempotencyKeyMissing: (400, "idempotency_key_missing"),
    errors.Unauthenticated: (401, "unauthenticated"),
    errors.TokenInvalid: (401, "token_invalid"),
    errors.BodyTimeout: (408, "body_timeout"),
    errors.BodyTooLarge: (413, "body_too_large"),
    errors.UnsupportedMediaType: (415, "unsupported_media_type"),
    errors.UnsupportedEncoding: (415, "unsupported_encoding"),
    errors.InvalidRequest: (422, "invalid_request"),
    errors.LabelNotAllowed: (422, "label_not_allowed"),
    errors.IdempotencyKeyReused: (422, "idempotency_key_reused"),
    errors.StorageBusy: (503, "storage_busy"),
    errors.StorageFull: (503, "storage_full"),
    errors.StorageFailed: (503, "storage_failed"),
}
"""Every error a call on purpose answers with; `not_found` and `method_not_allowed` come from the router."""

RETRY_AFTER_SECONDS = "1"

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")

_log = structlog.get_logger("exporter.app")


def create_app(settings: Settings, registry: CollectorRegistry, clock: Callable[[], float]) -> Starlette:
    """The application, its state recovered from the state folder, which it holds until its lifespan ends.

    `registry` takes the exporter's metrics on itself; `clock` gives Unix seconds. Raises StartError.
    """
    tokens = settings.read_tokens()
    monitoring = SelfMonitoring(registry, tuple(code for _, code in STATUS_AND_CODE.values()))
    service = Service(settings, monitoring, clock)

    async def count(request: Request, ingest: Callable[[bytes], Awaitable[Outcome]]) -> Response:
        body = await read_json_body(request, settings.max_body_bytes, settings.body_timeout_seconds)
        outcome = await ingest(body)
        monitoring.pushed("duplicate" if outcome.duplicate else "accepted")
        monitoring.dropped(outcome.dropped)
        return success(request, {"duplicate": outcome.duplicate, "journal": service.journal})

    async def push(request: Request) -> Response:
        authenticate(request, tokens)
        return await count(request, service.ingest.push)

    async def observations(request: Request) -> Response:
        authenticate(request, tokens)
        key = request.headers.get("idempotency-key", "")
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            raise IdempotencyKeyMissing("Send an Idempotency-Key of 1 to 128 visible ASCII characters")
        return await count(request, lambda body: service.ingest.observe(key, body))

    async def metrics(request: Request) -> Response:
        own, content_type = choose_encoder(request.headers.get("accept", ""))
        openmetrics = content_type.startswith("application/openmetrics-text")

        async def exposition() -> AsyncIterator[bytes]:
            for chunk in render(service.view(), openmetrics):
                yield chunk.encode()
                await asyncio.sleep(0)  # lets pushes through
            yield own(registry)

        headers = {"content-type": content_type, "vary": "Accept, Accept-Encoding"}
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return StreamingResponse(_gzip(exposition()), headers=headers)
        return StreamingResponse(exposition(), headers=headers)

    async def healthy(request: Request) -> Response:
        return success(request, {"status": "healthy"})

    async def ready(request: Request) -> Response:
        if not service.ready:
            raise errors.StorageFailed("The last write to the journal failed")
        return success(request, {"status": "ready", "journal": service.journal})

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ExporterError)  # noqa: S101 (registered for nothing else)
        status, code = STATUS_AND_CODE[type(error)]
        if request.method == "POST":
            monitoring.rejected(code)
            monitoring.pushed("failed" if isinstance(error, StorageError) else "rejected")
        headers = {"retry-after": RETRY_AFTER_SECONDS} if status == 503 else {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        return failure(request, status, code, error.message, error.details, headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        _log.info("exporter_started", journal=service.journal)
        yield
        await service.stop()
        _log.info("exporter_stopped", journal=service.journal)

    return Starlette(
        routes=[
            Route("/v1/push", push, methods=["POST"]),
            Route("/v1/observations", observations, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
        ],
        middleware=[Middleware(RequestId)],
        exception_handlers={ExporterError: refuse, HTTPException: _refuse_route, Exception: _internal_error},
        lifespan=lifespan,
    )


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for nothing else)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return failure(request, error.status_code, code, error.detail, {}, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("internal_error", request_id=request.state.request_id, path=request.url.path, exc_info=error)
    return failure(request, 500, "internal_error", "The exporter failed; its log has this request_id", {})


async def _gzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(level=1, wbits=31)
    async for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()
