"""The schema goes up, and is what the models say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from typer.testing import CliRunner

from config_rollback.storage import database as schema
from config_rollback.storage.models import Base
from config_rollback.storage.store import Store
from driftback_server import cli
from tests.config_rollback.audit.test_audit import attempt
from tests.config_rollback.databases import Database, Postgresql, Sqlite
from tests.config_rollback.running import Service
from tests.support.postgres import Server


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    """An empty SQLite database."""
    return Sqlite(tmp_path / "config_rollback.db")


@pytest.fixture
def postgresql(postgres: Server) -> Postgresql:
    """An empty PostgreSQL database."""
    return Postgresql(postgres, postgres.create_database())


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
    fill(database)
    store = Store(engine)
    columns = "audit_id, at, actor, reason, hash"
    rows = database.execute(f"SELECT {columns} FROM audit ORDER BY audit_id")
    schema.upgrade(engine)
    assert database.execute(f"SELECT {columns} FROM audit ORDER BY audit_id") == rows
    with store.write() as transaction:
        transaction.append_audit(attempt(11))
    with store.read() as transaction:
        assert (transaction.verify_audit().valid, transaction.verify_audit().rows) == (True, 11)
    with pytest.raises(Exception, match="append-only"):
        database.execute("DELETE FROM audit")
    store.close()


HISTORY = Path(__file__).with_name("golden") / "schema_0003.json"
"""What a service of that schema has written: tables in the order in which their rows refer to others."""


def fill(database: Database) -> None:
    """Puts the rows of `HISTORY` into an empty database of that schema."""
    for table, rows in json.loads(HISTORY.read_text(encoding="utf-8")).items():
        database.execute(f"DELETE FROM {table}" if table == "audit_head" else "SELECT 1")
        for row in rows:
            places = ", ".join("?" * len(row))
            # SQLite keeps moments in UTC without saying so.
            utc = [
                f"{value}+00" if value and name.endswith("at") and database.kind == "postgresql" else value
                for name, value in row.items()
            ]
            database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *utc)
    if database.kind == "postgresql":
        for table in ("activations.activation_id", "alerts.alert_id"):
            name, column = table.split(".")
            database.execute(f"SELECT setval(pg_get_serial_sequence('{name}', '{column}'), 7)")


def test_a_database_of_the_schema_before_goes_on(
    database: Database, start_on: Callable[..., Service]
) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine, "0003")
    fill(database)
    rows = database.execute("SELECT hash FROM audit ORDER BY audit_id")
    service = start_on(database)  # upgrades
    assert database.execute("SELECT hash FROM audit ORDER BY audit_id") == rows
    found = service.request("GET", "/v1/ops/audit/verify").json()["data"]
    assert (found["valid"], found["rows"]) == (True, 10)
    assert (service.active_version(), service.active_version("coach")) == (1, 2)
    # A retry from before the upgrade gets its answer.
    again = service.roll_back(key="old-key", expected_version=2, reason="too wild", alert="OutOfScopeDrift")
    assert again.json()["data"]["audit_id"] == 3
    assert service.roll_back("coach", expected_version=2, to_version=1).status_code == 200
    service.publish(temperature=0.7)
    found = service.request("GET", "/v1/ops/audit/verify").json()["data"]
    assert (found["valid"], found["rows"], found["problem"]) == (True, 12, None)
    old, new = service.audit()[9], service.audit()[10]
    assert (old["issuer"], old["content_hash"], old["attempts"]) == (None, None, 1)
    assert new["issuer"] == "driftback"
    assert new["content_hash"] == service.version(1, "coach")["content_hash"]
    assert database.execute("SELECT * FROM sessions") == [], "their issuer is unknown"
    engine.dispose()


def test_an_activation_added_behind_the_service_is_named_before_the_upgrade(database: Database) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine, "0003")
    fill(database)
    columns = "activation_id, persona, version, from_version, action, activated_at, activated_by, audit_id"
    database.execute(
        f"INSERT INTO activations ({columns})"
        " SELECT 99, persona, version, from_version, action, activated_at, activated_by, audit_id"
        " FROM activations WHERE audit_id = 2"
    )
    before = database.content()
    with pytest.raises(RuntimeError, match="audit row 2"):
        schema.upgrade(engine)
    assert database.content() == before
    engine.dispose()


def test_an_old_replica_beside_a_new_one_writes_no_row(
    database: Database, start_on: Callable[..., Service]
) -> None:
    engine = schema.connect(database.url)
    schema.upgrade(engine, "0003")
    fill(database)
    engine.dispose()
    service = start_on(database)  # upgrades
    columns = "request_id, actor, role, action, persona, from_version, to_version, status, error_code, reason"
    old = (
        f"INSERT INTO audit (audit_id, at, {columns}, alert, previous_hash, hash)"
        f" SELECT head.audit_id + 1, audit.at, {columns}, alert, head.hash, '1:0'"
        " FROM audit, audit_head AS head WHERE audit.audit_id = 10"
    )
    for _ in ("behind its own rows", "behind a new one"):
        before = database.content()
        with pytest.raises(Exception, match="scheme 2"):
            database.execute(old)
        assert database.content() == before
        service.publish("coach", temperature=0.7)
    assert service.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"]


REVISIONS = ["0001", "0002", "0003", "0004", "0005", "0006", "0007"]


@pytest.mark.parametrize("revision", REVISIONS)
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
    assert sorted(path.name[:4] for path in folder.glob("0*.py")) == REVISIONS
