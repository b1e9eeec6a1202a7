"""Engine, transactions' begin mode, and schema upgrades. No queries.

What only some starts need (psycopg, Alembic) is imported where it is used: it takes a quarter of a start.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a writer waits for another before it answers `storage_busy`."""

ACTIVATIONS_CHANNEL = "driftback_activations"
"""PostgreSQL's channel that notifies the other replicas of an activation, with its commit."""

MIGRATIONS = Path(__file__).with_name("migrations")
NEWEST = max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
"""The revision of the present schema."""

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
    from config_rollback.storage import postgresql

    engine = postgresql.engine(parsed, busy_timeout, **_POOL)
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


def _end_transaction(connection: Any, _record: Any) -> None:
    # After a COMMIT that failed, SQLAlchemy takes the transaction for ended and gives the connection back; it
    # may be open still, and hold the writers' lock for ever. If no transaction is open, this does nothing.
    if connection is not None:  # None: it was lost
        connection.rollback()


def upgrade(engine: Engine, revision: str = NEWEST) -> None:
    """Brings the schema to `revision`; several processes may try at once. No schema goes back."""
    if _revision(engine) == revision:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # configparser's own sign
    with engine.connect().execution_options(driftback_write=True) as connection:
        if engine.name == "postgresql":
            _take_time(connection)
        with connection.begin():
            if engine.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)


def _revision(engine: Engine) -> str | None:
    """The revision of the schema as it is; None for a database without tables."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _take_time(connection: Connection) -> None:
    """A migration has no time limit; its connection is closed afterwards and not used again."""
    driver: Any = connection.connection.driver_connection
    driver.patience = None
    connection.detach()


def backup(engine: Engine, file: Path) -> None:
    """Copies the state of a SQLite database at one moment, while others read and write it."""
    source = sqlite3.connect(str(engine.url.database))
    target = sqlite3.connect(file)
    with contextlib.closing(source), contextlib.closing(target):
        source.backup(target)
