"""Who looks at a page, and whether a form may act."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from config_rollback.auth.csrf import check_form_token, check_origin
from config_rollback.auth.sessions import LIFETIME, Login
from config_rollback.errors import UnauthenticatedError
from config_rollback.web import access
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import read_form
from config_rollback.web.pages.visit import Visit


async def find_login(request: Request) -> Login:
    """The session of the request's cookie.

    Raises `UnauthenticatedError` without a cookie, `SessionRevokedError` where the session is over.
    """
    deps = dependencies(request)
    cookie = request.cookies.get(deps.cookie_name)
    if cookie is None:
        raise UnauthenticatedError("log in to see this page")
    deps.sessions.check_cookie(cookie)  # without the database, because anybody can send a cookie
    return await run_sync(partial(deps.sessions.find, cookie))


def set_session(request: Request, response: Response, login: Login) -> None:
    """Gives the browser the session's cookie."""
    deps = dependencies(request)
    response.set_cookie(
        deps.cookie_name,
        login.cookie,
        max_age=int(LIFETIME.total_seconds()),
        path="/",
        secure=deps.settings.secure,
        httponly=True,
        samesite="lax",  # strict would drop the cookie when an alert's link is followed from a mail
    )


async def require_login(visit: Visit, action: str = "read", persona: str | None = None) -> Login:
    """As `find_login`, for the role `ops`; raises `ForbiddenError` for another role."""
    visit.login = login = await find_login(visit.request)
    await access.require_role(visit.request, login.actor, action, persona)
    return login


async def read_own_form(request: Request) -> Mapping[str, str]:
    """A form that this service's own page sent; raises a `RequestError` or `CsrfRejectedError`."""
    form = await read_form(request)
    check_origin(request.headers, dependencies(request).settings.external_url)
    return form


async def require_form(
    visit: Visit, action: str, persona: str | None = None
) -> tuple[Login, Mapping[str, str]]:
    """A form that a person with the role `ops` sent in their own session."""
    form = await read_own_form(visit.request)
    visit.login = login = await find_login(visit.request)
    check_form_token(login.cookie, form.get("form_token", ""))
    await access.require_role(visit.request, login.actor, action, persona)
    return login, form
