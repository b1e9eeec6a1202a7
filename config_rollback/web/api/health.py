"""`/metrics` and health: no credentials needed, nothing secret told."""

from __future__ import annotations

from anyio.to_thread import run_sync
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from config_rollback.web.api.operation import operation
from config_rollback.web.services import services


@operation("anyone", None)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    here = services(request)
    async with here.anonymous:
        text = await run_sync(here.metrics.render)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@operation("anyone", None)
async def healthy(_: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("healthy\n")


@operation("anyone", None)
async def ready(request: Request) -> Response:
    """The database answers too, and takes writes."""
    here = services(request)

    def ask() -> None:
        with here.store.read() as transaction:
            transaction.require_writable()

    async with here.anonymous:
        await run_sync(ask)
    return PlainTextResponse("ready\n")


routes = [
    Route("/metrics", metrics),
    Route("/-/healthy", healthy),
    Route("/-/ready", ready),
]
