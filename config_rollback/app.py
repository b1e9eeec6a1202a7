"""The application: routes, what starts and stops with it, and which status each error gets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import structlog
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match

from config_rollback import errors
from config_rollback.clock import Clock, Monotonic, utc_now
from config_rollback.settings import Settings
from config_rollback.web.api import alerts, audit, configs, health, openapi, ops, people
from config_rollback.web.api.quick_configs import QuickConfigs
from config_rollback.web.http import json_response, request_id
from config_rollback.web.middleware import RequestContext
from config_rollback.web.pages import routes as page_routes
from config_rollback.web.pages.render import error_page, page_that_sent, wants_html
from config_rollback.web.services import build, services

STATUS: dict[type[errors.ConfigRollbackError], int] = {
    errors.UnauthenticatedError: 401,
    errors.TokenInvalidError: 401,
    errors.TokenExpiredError: 401,
    errors.TokenScopeMismatchError: 401,
    errors.SessionRevokedError: 401,
    errors.LoginFailedError: 401,
    errors.TokenAlreadyUsedError: 409,
    errors.ForbiddenError: 403,
    errors.ShutOutError: 403,
    errors.CsrfRejectedError: 403,
    errors.InvalidJsonError: 400,
    errors.InvalidRedirectError: 400,
    errors.OidcStateMismatchError: 400,
    errors.IdempotencyKeyMissingError: 400,
    errors.NotFoundError: 404,
    errors.TargetNotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.ConfigChangedError: 409,
    errors.NothingToRollBackError: 409,
    errors.VersionDamagedError: 409,
    errors.OwnAccessError: 409,
    errors.TooManyShutOutError: 409,
    errors.RequestInProgressError: 409,
    errors.RequestTimeoutError: 408,
    errors.BodyTooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.UnsupportedEncodingError: 415,
    errors.InvalidRequestError: 422,
    errors.IdempotencyKeyReusedError: 422,
    errors.RateLimitedError: 429,
    errors.TooManyConnectionsError: 429,
    errors.TooManyPipelinedError: 429,
    errors.TooManyRequestsError: 429,
    errors.TooManyPollsError: 429,
    errors.AuditUnavailableError: 503,
    errors.StorageBusyError: 503,
    errors.StorageUnavailableError: 503,
    errors.OutcomeUnknownError: 503,
    errors.ConfigWithheldError: 503,
    errors.MonitoringUnavailableError: 503,
    errors.LoginUnavailableError: 503,
}
"""The HTTP status of each error; its code is the class's own."""


def create_app(
    settings: Settings, clock: Clock = utc_now, monotonic: Monotonic = time.monotonic
) -> Starlette:
    """The ASGI application. On start it upgrades the database; nothing is opened before."""
    here = build(settings, clock, monotonic)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_sync(here.store.upgrade)
        await here.delivery.refresh()
        for persona in here.delivery.active:
            here.metrics.know_persona(persona)
        tasks = asyncio.gather(here.delivery.watch(), here.clients.share(), here.upkeep.run())
        try:
            yield
        finally:
            here.delivery.close()
            here.clients.close()
            here.upkeep.close()
            try:
                await tasks
            finally:
                here.store.close()

    calls = [*configs.routes, *ops.routes, *people.routes, *audit.routes, *alerts.routes, *health.routes]
    app = Starlette(
        routes=[*calls, openapi.route(calls, STATUS), *page_routes()],
        middleware=[Middleware(QuickConfigs, here), Middleware(RequestContext, here)],
        exception_handlers={errors.ConfigRollbackError: _refuse, HTTPException: _refuse_route},
        lifespan=lifespan,
    )
    app.state.services = here
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    # A coroutine: a plain function would run in one of the threads that a rollback needs.
    if not isinstance(error, errors.ConfigRollbackError):
        raise error
    if isinstance(error, errors.AuthenticationError):
        services(request).metrics.authentication_failures.labels(error.code).inc()
        structlog.contextvars.bind_contextvars(
            error=error.code, reason=error.reason
        )  # for the request's line
    if isinstance(error, errors.OverloadedError):
        services(request).metrics.refused(error)
    return error_response(request, error)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Starlette's own errors, raised by the router."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        response = error_response(request, errors.MethodNotAllowedError("this method does not work here"))
        # Starlette names only the methods of the first route with this path.
        matching = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
        response.headers["Allow"] = ", ".join(sorted({m for route in matching for m in route.methods}))
        return response
    if isinstance(error, HTTPException) and error.status_code == 404:
        return error_response(request, errors.NotFoundError("no page has this address"))
    raise error


def error_response(request: Request, error: errors.ConfigRollbackError) -> Response:
    """The error in the shape of the contract: JSON, or a page for a browser."""
    status = STATUS[type(error)]
    path = request.scope["path"]
    is_page = not path.startswith(("/v1/", "/-/", "/metrics", "/openapi.json"))
    looks = request.method in ("GET", "HEAD")
    here = path + (f"?{request.url.query}" if request.url.query else "")
    if is_page and looks and isinstance(error, errors.UnauthenticatedError):
        return RedirectResponse(f"/login?{urlencode({'next': here})}", 303)
    if is_page and wants_html(request):
        response = error_page(request, error, status, here if looks else page_that_sent(request))
    else:
        content = {"code": error.code, "message": error.message, "details": error.details}
        response = json_response({"error": content, "request_id": request_id(request)}, status)
    if isinstance(error, errors.RateLimitedError):
        response.headers["Retry-After"] = str(error.details["retry_after"])
    if isinstance(error, errors.OverloadedError):
        response.headers["Retry-After"] = "1"
    if isinstance(error, (errors.RequestTimeoutError, errors.BodyTooLargeError)):
        response.headers["Connection"] = "close"  # the rest of the body is not waited for
    if status == 401 and not is_page:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
