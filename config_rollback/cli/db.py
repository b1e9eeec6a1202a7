"""`driftback db`: the database's schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from config_rollback import database
from config_rollback.cli import connection
from config_rollback.stack.layout import Layout, default_state_dir

app = typer.Typer(no_args_is_help=True, help="The database's schema.")


@app.callback()
def _group() -> None:
    """Keeps `upgrade` a subcommand while it is the only one."""


@app.command()
def upgrade(
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="CONFIG_ROLLBACK_DATABASE_URL", help="SQLAlchemy URL; else the database of --state-dir."
        ),
    ] = None,
    state_dir: connection.StateDirOption = None,
) -> None:
    """Bring the schema up to date; the service does the same when it starts."""
    engine = database.connect(database_url or f"sqlite:///{_default_database(state_dir)}")
    try:
        database.upgrade(engine)
    except SQLAlchemyError as error:
        connection.fail(f"{engine.url.render_as_string(hide_password=True)}: {error}", connection.REFUSED)
    finally:
        engine.dispose()
    connection.out.print(f"{engine.url.render_as_string(hide_password=True)} is up to date.", soft_wrap=True)


def _default_database(state_dir: Path | None) -> Path:
    configured = os.environ.get("CONFIG_ROLLBACK_STATE_DIR")
    if state_dir is None and configured:
        return Path(configured) / "config_rollback.db"
    return Layout(state_dir or default_state_dir()).data / "config_rollback" / "config_rollback.db"
