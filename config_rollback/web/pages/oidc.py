"""`/auth/start` and `/auth/callback`: to the OpenID provider and back, to the page one came for."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from config_rollback.auth.redirects import CALLBACK_PATH, LOGIN_SECONDS, check_next
from config_rollback.errors import InvalidRequestError, NotFoundError
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import while_connected
from config_rollback.web.pages.session import set_session
from config_rollback.web.pages.visit import Visit, page_route
from config_rollback.web.query import Query, Text, query_of

if TYPE_CHECKING:
    from config_rollback.auth.oidc import OidcLogins

MAX_COOKIES_LENGTH = 4000
"""Of all logins in progress in one browser, such as in tabs: proxies refuse long heads, nginx from 8 KB."""


class StartQuery(Query):
    """Where the login leads."""

    next: Text = "/"


async def start(visit: Visit) -> Response:
    """Redirects to the provider. Changes nothing here: the state of the login is in the browser's cookie.

    A link, not a form: browsers apply `form-action` to the redirect that answers a form.
    """
    request = visit.request
    logins = _logins(request)
    next_path = check_next(query_of(request, StartQuery).next)
    begun = await while_connected(request, logins.begin(next_path))
    deps = dependencies(request)
    response = RedirectResponse(begun.url, 303, headers={"Cache-Control": "no-store"})
    room = MAX_COOKIES_LENGTH - len(begun.cookie)
    for name, cookie in reversed(request.cookies.items()):  # the newest first (RFC 6265, section 5.4)
        if name.startswith(_cookie_name(request)):
            room -= len(cookie)
            if room < 0:
                _forget(request, response, name)
    response.set_cookie(
        _cookie_name(request, begun.state),
        begun.cookie,
        max_age=LOGIN_SECONDS,
        path="/",
        secure=deps.settings.secure,
        httponly=True,
        samesite="lax",  # the provider leads back here from its own site
    )
    return response


async def callback(visit: Visit) -> Response:
    """Back from the provider: opens a session in the browser that began the login, in no other."""
    request = visit.request
    logins = _logins(request)
    pairs = request.query_params.multi_items()
    if len(pairs) != len(dict(pairs)):
        raise InvalidRequestError("a query parameter occurs twice")
    name = _cookie_name(request, request.query_params.get("state", ""))
    cookie = request.cookies.get(name)
    visit.next_path = logins.next_path(cookie)
    actor, next_path = await while_connected(request, logins.finish(cookie, dict(pairs)))
    deps = dependencies(request)
    login = await run_sync(partial(deps.sessions.open_for, actor, request.cookies.get(deps.cookie_name)))
    response = RedirectResponse(check_next(next_path), 303, headers={"Cache-Control": "no-store"})
    set_session(request, response, login)
    _forget(request, response, name)
    return response


def _logins(request: Request) -> OidcLogins:
    logins = dependencies(request).oidc
    if logins is None:
        raise NotFoundError("no login provider is configured")
    return logins


def _cookie_name(request: Request, state: str | None = None) -> str:
    """A login's own cookie, by a hash of its state; without one, how all of them begin."""
    digest = "" if state is None else hashlib.sha256(state.encode()).hexdigest()[:16]
    return f"{dependencies(request).cookie_name}_login_{digest}"


def _forget(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(name, path="/", secure=dependencies(request).settings.secure, httponly=True)


routes = [
    page_route("/auth/start", start),
    page_route(CALLBACK_PATH, callback),
]
