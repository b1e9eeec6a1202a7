"""`/metrics` and health: no credentials needed, and nothing secret in the answers."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from config_rollback.errors import TooManyRequestsError
from config_rollback.web.dependencies import dependencies
from config_rollback.web.operation import operation


@operation("anyone", None, errors=(TooManyRequestsError,), is_quiet=True)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    text = await dependencies(request).exposition.result(request)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@operation("anyone", None, is_quiet=True)
async def healthy(_: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("healthy\n")


@operation("anyone", None, errors=(TooManyRequestsError,), is_quiet=True)
async def ready(request: Request) -> Response:
    """The database answers too, and takes writes."""
    await dependencies(request).readiness.result(request)
    return PlainTextResponse("ready\n")


routes = [
    Route("/metrics", metrics),
    Route("/-/healthy", healthy),
    Route("/-/ready", ready),
]
