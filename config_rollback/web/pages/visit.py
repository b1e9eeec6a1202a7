"""A request of a page, from the route to the page that answers it, which may be an error page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from config_rollback.auth.redirects import check_next
from config_rollback.auth.sessions import Login
from config_rollback.errors import (
    AuthenticationError,
    ConfigRollbackError,
    InvalidRedirectError,
    UnauthenticatedError,
)
from config_rollback.web import error_responses
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import request_id
from config_rollback.web.pages import render


@dataclass
class Visit:
    """A request of a page, and what the handler has found out so far, for an error page."""

    request: Request
    login: Login | None = None
    """The login, also of a person without the role `ops`."""
    next_path: str | None = None
    """The page that an error page links back to; by default the requested page, or the page of the form."""
    reason: str = ""
    """The reason that the person entered into the form, which browsers do not keep."""


Handler = Callable[[Visit], Awaitable[Response]]


def page_route(path: str, handler: Handler, method: str = "GET") -> Route:
    """The route of a page. If the handler raises an error, the browser gets an error page."""

    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        visit = Visit(request)
        try:
            return await handler(visit)
        except ConfigRollbackError as error:
            return _refusal(visit, error)

    return Route(path, endpoint, methods=[method])


def page(visit: Visit, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page of the service for the person who is logged in."""
    deps = dependencies(visit.request)
    text = render.html(
        template,
        login=visit.login,
        request_id=request_id(visit.request),
        now=deps.clock(),
        alertmanager_url=deps.settings.alertmanager_url,
        grafana_url=deps.settings.grafana_url,
        **context,
    )
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


def error_page(visit: Visit, error: ConfigRollbackError) -> Response:
    """What went wrong, and what one can do."""
    is_form = visit.request.method == "POST"
    default = _page_that_sent(visit.request) if is_form else _path_of(visit.request)
    response = page(
        visit,
        "error.html",
        status=error.status,
        error=error,
        advice=error.advice.format(**error.details),
        next_path=visit.next_path or default,
        is_form=is_form,
        reason=visit.reason,
    )
    response.headers.update(error.headers)
    return response


def wants_html(request: Request) -> bool:
    """Whether the client is a browser that shows a page."""
    return "text/html" in request.headers.get("accept", "")


def _refusal(visit: Visit, error: ConfigRollbackError) -> Response:
    request = visit.request
    if isinstance(error, UnauthenticatedError) and request.method in ("GET", "HEAD"):
        error_responses.count(request, error)
        return RedirectResponse(f"/login?{urlencode({'next': _path_of(request)})}", 303)
    response = error_responses.error_response(request, error)
    if wants_html(request):
        response = error_page(visit, error)
    if isinstance(error, AuthenticationError):
        del response.headers["WWW-Authenticate"]  # a page takes no bearer token
    return response


def _path_of(request: Request) -> str:
    path: str = request.scope["path"]
    return f"{path}?{request.url.query}" if request.url.query else path


def _page_that_sent(request: Request) -> str | None:
    """The page of this service whose form was sent, by its Referer."""
    try:
        referer = urlsplit(request.headers.get("referer", ""))
        if referer.netloc != request.headers.get("host"):
            return None
        return check_next(urlunsplit(("", "", referer.path, referer.query, "")))
    except (ValueError, InvalidRedirectError):  # ValueError: it is no URL
        return None
