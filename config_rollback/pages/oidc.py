"""`/auth/start` and `/auth/callback`: to the OpenID provider and back, to the page one came for."""

from __future__ import annotations

from functools import partial

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from config_rollback.auth.oidc import CALLBACK_PATH, LOGIN_SECONDS, OidcLogins
from config_rollback.auth.redirects import check_next
from config_rollback.errors import InvalidRequestError, NotFoundError
from config_rollback.http import query_of
from config_rollback.pages.session import set_session
from config_rollback.services import services


async def start(request: Request) -> Response:
    """To the provider. Changes nothing here: what is to be remembered goes into the browser's cookie.

    A link, not a form: browsers apply `form-action` to the redirect that answers a form.
    """
    logins = _logins(request)
    next_path = check_next(query_of(request, "next").get("next", "/"))
    begun = await run_sync(partial(logins.begin, next_path))
    here = services(request)
    response = RedirectResponse(begun.url, 303, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        _cookie_name(request),
        begun.cookie,
        max_age=LOGIN_SECONDS,
        path="/",
        secure=here.settings.secure,
        httponly=True,
        samesite="lax",  # the provider leads back here from its own site
    )
    return response


async def callback(request: Request) -> Response:
    """Back from the provider: opens a session in the browser that began the login, in no other."""
    logins = _logins(request)
    pairs = request.query_params.multi_items()
    if len(pairs) != len(dict(pairs)):
        raise InvalidRequestError("a query parameter is given twice")
    cookie = request.cookies.get(_cookie_name(request))
    actor, next_path = await run_sync(partial(logins.finish, cookie, dict(pairs)))
    here = services(request)
    login = await run_sync(partial(here.sessions.open_for, actor))
    response = RedirectResponse(check_next(next_path), 303, headers={"Cache-Control": "no-store"})
    set_session(request, response, login)
    response.delete_cookie(_cookie_name(request), path="/", secure=here.settings.secure, httponly=True)
    return response


def _logins(request: Request) -> OidcLogins:
    logins = services(request).oidc
    if logins is None:
        raise NotFoundError("no login provider is configured")
    return logins


def _cookie_name(request: Request) -> str:
    return f"{services(request).cookie_name}_login"


routes = [
    Route("/auth/start", start),
    Route(CALLBACK_PATH, callback),
]
