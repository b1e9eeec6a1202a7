"""The schema goes up and down, and is what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from typer.testing import CliRunner

from config_rollback import cli
from config_rollback import database as schema
from config_rollback.models import Base
from config_rollback.store import Store
from tests.config_rollback.databases import Database, Sqlite
from tests.config_rollback.test_audit import attempt


def test_up_and_down_and_up_again(database: Database) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine)
    schema.upgrade(engine)
    assert set(Base.metadata.tables) < set(inspect(engine).get_table_names())
    schema.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    schema.upgrade(engine)
    assert database.execute("SELECT audit_id FROM audit_head") == [(0,)]
    engine.dispose()


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_sqlite_is_durable_and_waits_for_other_writers(sqlite: Sqlite) -> None:
    engine = schema.connect(sqlite.url)
    with engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "busy_timeout")
        }
    engine.dispose()
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "busy_timeout": 5000,
    }


def test_a_chain_of_the_first_schema_stays_valid_and_closed(database: Database) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine, "0001")
    store = Store(engine)
    for number in range(1, 6):
        with store.write() as transaction:
            transaction.append_audit(attempt(number))
    rows = database.execute("SELECT * FROM audit ORDER BY audit_id")
    schema.upgrade(engine)
    assert database.execute("SELECT * FROM audit ORDER BY audit_id") == rows
    with store.write() as transaction:
        transaction.append_audit(attempt(6))
    with store.read() as transaction:
        assert (transaction.verify_audit().valid, transaction.verify_audit().rows) == (True, 6)
    with pytest.raises(Exception, match="append-only"):
        database.execute("DELETE FROM audit")
    schema.downgrade(engine, "0001")
    assert database.execute("SELECT * FROM audit WHERE audit_id < 6 ORDER BY audit_id") == rows
    with pytest.raises(Exception, match="append-only"):
        database.execute("DELETE FROM audit")
    store.close()


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_the_command_upgrades_from_every_schema(database: Database, revision: str) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine, revision)
    done = CliRunner().invoke(cli._app, ["db", "upgrade", "--database-url", database.url])
    assert done.exit_code == 0, done.output
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_every_schema_is_in_the_test_above() -> None:
    folder = Path(schema.__file__).parent / "migrations" / "versions"
    assert {path.name[:4] for path in folder.glob("0*.py")} == {"0001", "0002", "0003"}
