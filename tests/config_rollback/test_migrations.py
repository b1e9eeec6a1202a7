"""The schema goes up and down, and is what the models say."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from config_rollback import database as schema
from config_rollback.models import Base
from tests.config_rollback.running import Database


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


def test_sqlite_is_durable_and_waits_for_other_writers(database: Database) -> None:
    engine = schema.connect(database.url)
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
