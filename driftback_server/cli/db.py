"""`driftback db`: the schema, the roles and the copies of the database.

The storage of the service is imported where it is used: it takes longer than any other command.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config_rollback.errors import UnavailableError
from driftback_server.cli import connection
from driftback_server.cli.output import output
from driftback_server.stack.layout import Layout, default_state_dir
from exporter.secret_files import read_secret

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from config_rollback.audit.chain import Head, Verification

app = typer.Typer(no_args_is_help=True, help="The database's schema, roles and copies.")

UNDEFINED_TABLE = "42P01"
"""SQLSTATE of PostgreSQL for a missing table."""

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="CONFIG_ROLLBACK_DATABASE_URL",
        help="SQLAlchemy URL; by default that in the file $CONFIG_ROLLBACK_DATABASE_URL_FILE, "
        "or the database in --state-dir.",
    ),
]


@app.command()
def upgrade(database_url: DatabaseOption = None, state_dir: connection.StateDirOption = None) -> None:
    """Upgrade the schema to the newest version; the service does the same when it starts."""
    from config_rollback.storage import database

    with opened(_url(database_url, state_dir)) as engine:
        database.upgrade(engine)
        output.act_is_done()
        connection.out.print(f"{_shown(engine)} is up to date.", soft_wrap=True)


@app.command()
def grant(
    application: Annotated[str | None, typer.Option(help="The role that the service connects as.")] = None,
    auditor: Annotated[str | None, typer.Option(help="A role that may read the history.")] = None,
    database_url: DatabaseOption = None,
) -> None:
    """Give existing PostgreSQL roles the rights that they need; run as the owner, after each upgrade."""
    if application is None and auditor is None:
        connection.fail("Name a role with --application or --auditor.", connection.USAGE)
    url = _configured_url(database_url)
    if url is None:
        connection.fail("Only PostgreSQL has roles: give --database-url.", connection.USAGE)
    with opened(url) as engine:
        if engine.name != "postgresql":
            connection.fail("Only PostgreSQL has roles: give --database-url.", connection.USAGE)
        from config_rollback.storage import postgresql

        if application is not None:
            postgresql.grant(engine, application, postgresql.APPLICATION)
        if auditor is not None:
            postgresql.grant(engine, auditor, postgresql.AUDITOR)
        output.act_is_done()
        connection.out.print(f"{_shown(engine)}: privileges granted.", soft_wrap=True)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.", dir_okay=False)],
    database_url: DatabaseOption = None,
    state_dir: connection.StateDirOption = None,
) -> None:
    """Copy the SQLite database while the service runs, and verify the copy. For PostgreSQL use pg_dump."""
    from config_rollback.storage import database

    if file.exists():
        connection.fail(f"{file} exists already: name another file.", connection.USAGE)
    with opened(_url(database_url, state_dir)) as engine:
        if engine.name != "sqlite":
            connection.fail("Use pg_dump for PostgreSQL: see docs/operations.md.", connection.USAGE)
        _require_file(engine)
        partial = file.with_name(f"{file.name}.partial")
        try:
            database.backup(engine, partial)
        except sqlite3.Error as error:  # of the source or of the copy
            partial.unlink(missing_ok=True)
            connection.fail(f"cannot copy {_shown(engine)} to {file}: {error}", connection.REFUSED)
    result = verify_audit(_sqlite_url(partial))
    if not result.valid:
        connection.fail(connection.broken(result.broken_at, result.problem), connection.REFUSED)
    partial.replace(file)
    output.act_is_done()
    for suffix in ("-wal", "-shm"):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    connection.out.print(
        f"{file}: {result.rows} audit rows, all intact. Head {result.head.audit_id}:{result.head.hash}",
        soft_wrap=True,
    )


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """The engine for a command. If the database fails, the command ends with an error."""
    import structlog
    from sqlalchemy.exc import SQLAlchemyError

    from config_rollback.settings import check_database_url
    from config_rollback.storage import database

    if not structlog.is_configured():
        # Standard output is for results.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        check_database_url(url)
    except ValueError as error:
        connection.fail(f"--database-url, CONFIG_ROLLBACK_DATABASE_URL: {error}", connection.USAGE)
    try:
        engine = database.connect(url)
    except OSError as error:
        connection.fail(f"cannot create the folder {error.filename}: {error.strerror}", connection.USAGE)
    try:
        yield engine
    except (SQLAlchemyError, sqlite3.Error, UnavailableError) as error:
        connection.fail(f"{_shown(engine)}: {_cause(error)}", connection.REFUSED)
    finally:
        engine.dispose()


def verify_audit(url: str, known: Head | None = None) -> Verification:
    """Checks the audit log of a database. If the database fails, the command ends with an error."""
    from config_rollback.storage.store import Store

    with opened(url) as engine:
        _require_file(engine)
        with Store(engine).read() as transaction:
            return transaction.verify_audit(known)


def _require_file(engine: Engine) -> None:
    """Ends the command if the SQLite file does not exist, because connecting would create an empty one."""
    if engine.name == "sqlite" and not Path(str(engine.url.database)).is_file():
        connection.fail(
            f"{_shown(engine)}: there is no database here. Name one with --database-url or --state-dir.",
            connection.REFUSED,
        )


def _cause(error: Exception) -> str:
    """The error of the database, and the remedy."""
    from sqlalchemy.exc import DBAPIError

    raised = error.__cause__ if isinstance(error, UnavailableError) and error.__cause__ else error
    cause = raised.orig if isinstance(raised, DBAPIError) else raised
    if "no such table" in str(cause) or getattr(cause, "sqlstate", None) == UNDEFINED_TABLE:
        return f"{cause}. If this is config_rollback's database, `driftback db upgrade` creates its tables."
    return str(cause)


def _shown(engine: Engine) -> str:
    if engine.name == "sqlite":
        return str(engine.url.database)  # the path, as the user types it
    return engine.url.set(query={}).render_as_string(hide_password=True)  # the query may hold a password too


def _url(given: str | None, state_dir: Path | None) -> str:
    if state_dir is None:
        configured = _configured_url(given)
    else:
        configured = connection.unless_exported(given, "CONFIG_ROLLBACK_DATABASE_URL", state_dir)
    return configured or _sqlite_url(_default_database(state_dir))


def _configured_url(given: str | None) -> str | None:
    """The URL as the service reads it from the environment; the option `--database-url` overrides that."""
    inline, file = (os.environ.get(f"CONFIG_ROLLBACK_DATABASE_URL{suffix}") for suffix in ("", "_FILE"))
    if not file or (given and given != inline):
        return given
    if inline:
        connection.fail(
            "CONFIG_ROLLBACK_DATABASE_URL and CONFIG_ROLLBACK_DATABASE_URL_FILE are both set: give one",
            connection.USAGE,
        )
    try:
        return read_secret(Path(file))
    except ValueError as error:
        connection.fail(f"CONFIG_ROLLBACK_DATABASE_URL_FILE: {error}", connection.USAGE)


def _default_database(state_dir: Path | None) -> Path:
    configured = os.environ.get("CONFIG_ROLLBACK_STATE_DIR")
    if state_dir is None and configured:
        return Path(configured) / "config_rollback.db"
    return Layout(state_dir or default_state_dir()).data / "config_rollback" / "config_rollback.db"


def _sqlite_url(file: Path) -> str:
    from config_rollback.settings import sqlite_url

    return sqlite_url(file)
