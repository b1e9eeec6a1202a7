"""The command line, `driftback`: a thin layer over the packages, with one module per command or group."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from driftback import __version__
from driftback_server.cli import access, acts, audit, connection, db, kpis, persona, replay, token, up
from driftback_server.cli.output import output
from driftback_server.stack.errors import StackError

_app = typer.Typer(
    name="driftback",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)
_app.command()(up.up)
_app.command()(replay.replay)
_app.command()(kpis.kpis)
_app.command()(token.login_link)
for act in (acts.publish, acts.rollback, acts.accept):
    persona.app.command()(act)
_app.add_typer(persona.app, name="persona")
_app.add_typer(audit.app, name="audit")
_app.add_typer(access.app, name="access")
_app.add_typer(token.app, name="token")
_app.add_typer(db.app, name="db")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@_app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Detect drift of an LLM chat, name the configuration that caused it, and roll it back, audited."""


def main() -> None:
    """Entry point of the `driftback` script."""
    output.guard()
    os.umask(0o077)  # copies, exports and the stack's files hold configurations or secrets
    try:
        _app()
    except SystemExit as ended:
        exit_code = ended.code if isinstance(ended.code, int) else connection.REFUSED
    except (OSError, StackError) as error:  # the folder belongs to somebody else, or does not exist
        connection.err.print(f"driftback: {error}", style="red", soft_wrap=True)
        exit_code = connection.REFUSED
    sys.exit(output.finish(exit_code))
