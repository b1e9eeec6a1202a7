"""Engine, transactions' begin mode, and schema upgrades. No queries."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url

from config_rollback.storage import postgres_connection

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a writer waits for another before it answers `storage_busy`."""

_WRITER_LOCK = 0x64726966746261
"""Key of PostgreSQL's advisory lock that writers take, per database ("driftba" in ASCII)."""

ACTIVATIONS_CHANNEL = "driftback_activations"
"""PostgreSQL's channel that notifies the other replicas of an activation, with its commit."""

_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)\s*=")
"""A setting in the `options` of a URL, as PostgreSQL's command line takes it."""

_POOL = {"pool_size": 20, "max_overflow": 20}
"""As many as the threads that may ask for a connection at once (40, anyio's default)."""


def connect(url: str, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> Engine:
    """An engine; on SQLite in WAL mode, durable at every commit. `busy_timeout` in seconds."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            _close_to_others(parsed.database)
        engine = create_engine(
            parsed, connect_args={"timeout": busy_timeout}, pool_timeout=busy_timeout, **_POOL
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "checkin", _end_transaction)
        return engine
    defaults = postgres_connection.PARAMETERS
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={name: value for name, value in defaults.items() if name not in parsed.query},
        pool_timeout=busy_timeout,
        pool_pre_ping=True,
        **_POOL,
    )
    event.listen(engine, "do_connect", _connect_postgresql)
    event.listen(engine, "begin", partial(_begin_postgresql, _limits(parsed, busy_timeout)))
    event.listen(engine, "checkin", _end_transaction)
    return engine


def _close_to_others(file: str) -> None:
    """A database that was made while others could read it is for its owner alone from now on."""
    for path in (Path(f"{file}{suffix}") for suffix in ("", "-wal", "-shm")):
        with contextlib.suppress(OSError):  # it does not exist yet, or belongs to somebody else
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # None: the driver begins no transaction by itself; `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A plain BEGIN takes the write lock at the first write, too late for read-modify-write: another writer in
    # between makes it fail at once, whatever the busy timeout.
    writes = connection.get_execution_options().get("driftback_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _connect_postgresql(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> psycopg.Connection:
    connection = postgres_connection.Connection.connect(*arguments, **parameters)
    connection.patience = postgres_connection.SILENCE_SECONDS
    return connection


def _limits(url: URL, busy_timeout: float) -> str:
    """The statement that bounds a transaction; the URL's own `options` are not changed.

    In each transaction: PgBouncer refuses them at the connection, and keeps no setting between transactions.
    """
    seconds = {
        "lock_timeout": busy_timeout,
        "statement_timeout": postgres_connection.STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": postgres_connection.IDLE_SECONDS,
    }
    given = {name.replace("-", "_").lower() for name in _OPTION.findall(str(url.query.get("options", "")))}
    limits = {name: int(limit * 1000) for name, limit in seconds.items() if name not in given}
    return "SELECT " + ", ".join(f"set_config('{name}', '{limit}', true)" for name, limit in limits.items())


def _begin_postgresql(limits: str, connection: Connection) -> None:
    connection.exec_driver_sql(limits)
    # What BEGIN IMMEDIATE is on SQLite: one writer at a time, whatever it writes; ends with the transaction.
    # Statements after it see what the writer before has committed (READ COMMITTED, the default).
    if connection.get_execution_options().get("driftback_write", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def _end_transaction(connection: Any, _record: Any) -> None:
    # After a COMMIT that failed, SQLAlchemy takes the transaction for ended and gives the connection back; it
    # may be open still, and hold the writers' lock for ever. If no transaction is open, this does nothing.
    if connection is not None:  # None: it was lost
        connection.rollback()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to `revision`; several processes may try at once. No schema goes back."""
    config = Config()
    migrations = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", migrations.replace("%", "%%"))  # configparser's own sign
    with engine.connect().execution_options(driftback_write=True) as connection:
        if engine.name == "postgresql":
            _take_time(connection)
        with connection.begin():
            if engine.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)


def _take_time(connection: Connection) -> None:
    """A migration has no time limit; its connection is closed afterwards and not used again."""
    driver: Any = connection.connection.driver_connection
    driver.patience = None
    connection.detach()


APPLICATION = {
    "SELECT, INSERT": ("versions", "activations", "audit"),
    "SELECT, UPDATE": ("audit_head",),
    "SELECT, INSERT, DELETE": ("used_tokens", "idempotency", "shut_out"),
    "SELECT, INSERT, UPDATE, DELETE": ("sessions", "alerts", "serving"),
    "SELECT": ("alembic_version",),
}
"""Privileges of a role that runs the service without owning its tables."""
_NUMBERED = (("activations", "activation_id"), ("alerts", "alert_id"))
"""Columns whose numbers PostgreSQL gives, from a sequence."""
AUDITOR = {"SELECT": ("versions", "activations", "audit", "audit_head", "alerts", "alembic_version")}
"""Privileges of a role that reads history, and neither sessions nor what would open one."""


def lacking_rights(connection: Connection) -> list[str]:
    """What the connected PostgreSQL role lacks of `APPLICATION`. Raises `DBAPIError` for a missing table."""
    wanted = [
        (table, right)
        for rights, tables in APPLICATION.items()
        for table in tables
        for right in rights.split(", ")
    ]
    # A right on columns may be enough. DELETE is none of these.
    columns = [
        f"has_{'table' if right == 'DELETE' else 'any_column'}_privilege('{table}', '{right}')"
        for table, right in wanted
    ]
    columns += [
        f"has_sequence_privilege(pg_get_serial_sequence('{table}', '{column}'), 'USAGE')"
        for table, column in _NUMBERED
    ]
    has = connection.exec_driver_sql(f"SELECT {', '.join(columns)}").one()
    names = [f"{right} on {table}" for table, right in wanted]
    names += [f"USAGE on the sequence of {table}" for table, _ in _NUMBERED]
    return [name for name, is_there in zip(names, has, strict=True) if not is_there]


def grant(engine: Engine, role: str, privileges: Mapping[str, tuple[str, ...]] = APPLICATION) -> None:
    """Gives a PostgreSQL role the least that it needs, and takes away what it had beyond.

    Run by the tables' owner. History then has two locks: no privilege to change it, and the triggers.
    """
    quoted = engine.dialect.identifier_preparer.quote_identifier(role)
    with engine.connect() as connection, connection.begin():
        for kind in ("TABLES", "SEQUENCES"):
            connection.exec_driver_sql(f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {quoted}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {quoted}")
        for given, tables in privileges.items():
            connection.exec_driver_sql(f"GRANT {given} ON {', '.join(tables)} TO {quoted}")
            if "INSERT" in given:
                connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {quoted}")


def backup(engine: Engine, file: Path) -> None:
    """Copies the state of a SQLite database at one moment, while others read and write it."""
    source = sqlite3.connect(str(engine.url.database))
    target = sqlite3.connect(file)
    with contextlib.closing(source), contextlib.closing(target):
        source.backup(target)
