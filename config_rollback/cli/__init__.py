"""The command line, `driftback`: a thin layer over the packages; a module per command or group."""

from __future__ import annotations

import os
import sys

import structlog
import typer

from config_rollback.cli import audit, connection, db, kpis, persona, replay, token, up

_app = typer.Typer(
    name="driftback",
    help="Sees an LLM chat drift, names the configuration that caused it, and rolls it back, audited.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)
_app.command()(up.up)
_app.command()(replay.replay)
_app.command()(kpis.kpis)
_app.command()(token.login_link)
_app.add_typer(persona.app, name="persona")
_app.add_typer(audit.app, name="audit")
_app.add_typer(token.app, name="token")
_app.add_typer(db.app, name="db")


def main() -> None:
    """Entry point of the `driftback` script."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for results
    try:
        try:
            _app()
        finally:
            sys.stdout.flush()
    except OSError as error:  # a full disk behind a redirection, a folder of somebody else
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        connection.err.print(f"driftback: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(connection.REFUSED)
