"""The application: routes, and what starts and stops with it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from config_rollback import errors
from config_rollback.clock import Clock, Monotonic, utc_now
from config_rollback.settings import Settings
from config_rollback.web.api import alerts, audit, configs, health, openapi, ops, people
from config_rollback.web.api.quick_configs import QuickConfigs
from config_rollback.web.dependencies import build
from config_rollback.web.error_responses import error_response
from config_rollback.web.middleware import RequestContext
from config_rollback.web.operation import operation_of
from config_rollback.web.pages import routes as page_routes
from config_rollback.web.pages.visit import Visit, error_page, wants_html

API = ("/v1/", "/-/", "/openapi.json")
"""Paths without pages: errors are JSON, also for a browser."""


def create_app(
    settings: Settings, clock: Clock = utc_now, monotonic: Monotonic = time.monotonic
) -> Starlette:
    """The ASGI application. On start it upgrades the database; nothing is opened before."""
    deps = build(settings, clock, monotonic)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_sync(deps.store.upgrade)
        await deps.delivery.refresh()
        for persona in deps.delivery.active:
            deps.metrics.know_persona(persona)
        tasks = asyncio.gather(deps.delivery.watch(), deps.clients.share(), deps.upkeep.run())
        try:
            yield
        finally:
            deps.delivery.close()
            deps.clients.close()
            deps.upkeep.close()
            try:
                await tasks
            finally:
                deps.store.close()

    calls = [*configs.routes, *ops.routes, *people.routes, *audit.routes, *alerts.routes, *health.routes]
    app = Starlette(
        routes=[*calls, openapi.route(calls), *page_routes()],
        middleware=[Middleware(QuickConfigs, deps), Middleware(RequestContext, deps)],
        exception_handlers={errors.ConfigRollbackError: _refuse, HTTPException: _refuse_route},
        lifespan=lifespan,
    )
    app.state.dependencies = deps
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    # A coroutine: a plain function would run in one of the threads that a rollback needs.
    if not isinstance(error, errors.ConfigRollbackError):
        raise error
    return error_response(request, error)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Starlette's own errors, raised by the router: no route knows whether a page was wanted."""
    refused: errors.ConfigRollbackError
    if isinstance(error, HTTPException) and error.status_code == 405:
        refused = errors.MethodNotAllowedError("this method is not allowed here")
    elif isinstance(error, HTTPException) and error.status_code == 404:
        refused = errors.NotFoundError("there is no page at this address")
    else:
        raise error
    matching = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
    is_api = request.scope["path"].startswith(API) or any(operation_of(r.endpoint) for r in matching)
    if wants_html(request) and not is_api:
        response = error_page(Visit(request), refused)
    else:
        response = error_response(request, refused)
    if isinstance(refused, errors.MethodNotAllowedError):
        # Starlette names only the methods of the first route with this path.
        response.headers["Allow"] = ", ".join(sorted({m for route in matching for m in route.methods}))
    return response
