"""`/login` and `/logout`. The one-time link leads to a page; only its button uses the link up."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from starlette.responses import RedirectResponse, Response

from config_rollback.auth.csrf import check_form_token
from config_rollback.auth.redirects import check_next
from config_rollback.errors import AuthenticationError, UnauthenticatedError
from config_rollback.web.dependencies import dependencies
from config_rollback.web.pages.session import find_login, read_own_form, set_session
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.query import Query, Text, query_of


class LoginQuery(Query):
    """The one-time token, and where the login leads."""

    token: Text | None = None
    next: Text = "/"


async def show(visit: Visit) -> Response:
    """With a token, the button that uses it up; without, how to get one."""
    query = query_of(visit.request, LoginQuery)
    next_path, token = check_next(query.next), query.token
    problem: AuthenticationError | None = None
    if token is not None:
        deps = dependencies(visit.request)
        try:
            identity = deps.sessions.read_login_token(token)
            await run_sync(partial(deps.sessions.check_unused, identity))
        except AuthenticationError as error:
            problem = error
    return page(
        visit,
        "login.html",
        token=None if problem else token,
        next_path=next_path,
        problem=problem,
        provider=urlsplit(dependencies(visit.request).settings.oidc_issuer or "").hostname,
    )


async def log_in(visit: Visit) -> Response:
    """Uses the token up, and goes on to `next`."""
    form = await read_own_form(visit.request)
    next_path = check_next(form.get("next", "/"))
    deps = dependencies(visit.request)
    if not form.get("token"):
        raise UnauthenticatedError("get a login link first")
    identity = deps.sessions.read_login_token(form["token"])
    login = await run_sync(partial(deps.sessions.open, identity, visit.request.cookies.get(deps.cookie_name)))
    response = RedirectResponse(next_path, 303)
    set_session(visit.request, response, login)
    return response


async def log_out(visit: Visit) -> Response:
    """Ends every copy of the session."""
    form = await read_own_form(visit.request)
    deps = dependencies(visit.request)
    login = await find_login(visit.request)
    check_form_token(login.cookie, form.get("form_token", ""))
    await run_sync(partial(deps.sessions.end, login))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(deps.cookie_name, path="/", secure=deps.settings.secure, httponly=True)
    return response


routes = [
    page_route("/login", show),
    page_route("/login", log_in, "POST"),
    page_route("/logout", log_out, "POST"),
]
