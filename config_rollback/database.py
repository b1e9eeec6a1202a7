"""Engine, transactions' begin mode, and schema upgrades. The queries are in `store.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a writer waits for another before it answers `storage_busy`."""

_POOL = {"pool_size": 20, "max_overflow": 20}
"""As many as the threads that may ask for a connection at once (40, anyio's default)."""


def connect(url: str, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> Engine:
    """An engine; on SQLite in WAL mode, durable at every commit. `busy_timeout` in seconds."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed, connect_args={"timeout": busy_timeout}, pool_timeout=busy_timeout, **_POOL
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"options": f"-c lock_timeout={int(busy_timeout * 1000)}"},
        pool_timeout=busy_timeout,
        pool_pre_ping=True,
        **_POOL,
    )


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


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to `revision`; several processes may try at once, on SQLite one after the other."""
    _run(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Takes the schema back to `revision` (`base`: nothing left)."""
    _run(engine, command.downgrade, revision)


def _run(engine: Engine, action: Any, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.connect().execution_options(driftback_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        action(config, revision)
