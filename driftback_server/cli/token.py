"""`driftback token mint` and `driftback login-link`: credentials, made here with the signing key."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from config_rollback.auth.claims import MAX_LIFETIME_SECONDS, MAX_TEXT_LENGTH, is_plain
from config_rollback.auth.redirects import check_next
from config_rollback.auth.tokens import mint_access_token, mint_login_link
from config_rollback.errors import InvalidRedirectError
from driftback_server.cli import connection

app = typer.Typer(no_args_is_help=True, help="Access tokens for the API.")

_UNITS = {"s": 1, "m": 60, "h": 3600}


def _plain(value: str | None) -> str | None:
    if value is not None and not is_plain(value):
        raise typer.BadParameter(f"must have 1 to {MAX_TEXT_LENGTH} characters, all of them visible")
    return value


SubjectOption = Annotated[
    str | None,
    typer.Option(
        help="The name that audit rows will show; by default the user of this machine.", callback=_plain
    ),
]


@app.callback()
def _group() -> None:
    """Keeps `mint` a subcommand while it is the only one."""


@app.command()
def mint(
    subject: SubjectOption = None,
    role: Annotated[
        str, typer.Option(help="The role of the caller; only `ops` has any rights.", callback=_plain)
    ] = "ops",
    ttl: Annotated[
        str, typer.Option(help="Lifetime of the token, for example 30m or 8h; at most 24h.")
    ] = "8h",
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Print an access token, for `Authorization: Bearer`."""
    seconds = _seconds(ttl)
    token = mint_access_token(
        connection.jwt_secret(state_dir),
        subject=subject or connection.user(),
        role=role,
        lifetime_seconds=seconds,
    )
    if json_output:
        connection.print_json({"token": token, "expires_in": seconds})
    else:
        print(token)  # noqa: T201 (the command's output)


def login_link(
    subject: SubjectOption = None,
    next_path: Annotated[str, typer.Option("--next", help="The page to open after the login.")] = "/",
    url: connection.UrlOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Print a link that logs a browser in once, within 15 minutes."""
    try:
        check_next(next_path)
    except InvalidRedirectError as error:
        connection.fail(f"--next: {error.message}", connection.USAGE)
    url = connection.unless_exported(url, "DRIFTBACK_URL", state_dir)
    if url is None and state_dir is None:
        url = os.environ.get("CONFIG_ROLLBACK_EXTERNAL_URL")  # on the service's machine or in its container
    if not url:
        url = str(connection.running_stack(state_dir, "give --url")["urls"]["config_rollback"])
    link = mint_login_link(
        connection.jwt_secret(state_dir),
        subject=subject or connection.user(),
        external_url=url.rstrip("/"),
        next_path=next_path,
    )
    if json_output:
        connection.print_json({"login_link": link})
    else:
        print(link)  # noqa: T201 (the command's output)


def _seconds(ttl: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smh])", ttl)
    if match is None:
        raise typer.BadParameter("must be a number and a unit, for example 30m or 8h", param_hint="--ttl")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= MAX_LIFETIME_SECONDS:
        raise typer.BadParameter("must be more than 0 and at most 24h", param_hint="--ttl")
    return seconds
