"""Roles with the least rights on PostgreSQL, made by the commands of docs/operations.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.config_rollback.databases import Postgresql
from tests.config_rollback.delivery.test_delivery import metric, wait_until
from tests.config_rollback.running import Service
from tests.config_rollback.test_cli import run
from tests.config_rollback.test_faults import CHANGES_OF_HISTORY, ONLY_POSTGRESQL
from tests.config_rollback.web.test_api_ops import error
from tests.support.postgres import Server

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture
def postgresql(postgres: Server) -> Postgresql:
    """An empty PostgreSQL database: its owner is to make the tables."""
    return Postgresql(postgres, postgres.create_database())


@pytest.fixture
def roles(database: Postgresql) -> dict[str, Postgresql]:
    """The database as the owner, the application and an auditor see it; roles as the document makes them."""
    script = re.search(r"```sql\n(.*?)```", OPERATIONS.read_text(), re.S)
    assert script
    for statement in script[1].split(";\n"):
        if statement.strip() and not statement.lstrip().startswith("CREATE DATABASE"):
            named = re.sub(r"\bdriftback_(\w+)", rf"\1_{database.name}", statement)
            named = named.replace("DATABASE driftback", f"DATABASE {database.name}")
            database.server.execute(named, database.name)
    names = {kind: f"{kind}_{database.name}" for kind in ("owner", "app", "auditor")}
    database.server.execute(f"ALTER DATABASE {database.name} OWNER TO {names['owner']}")
    owner = Postgresql(database.server, database.name, names["owner"])
    assert run("db", "upgrade", "--database-url", owner.url).exit_code == 0
    granted = run(
        "db", "grant", "--database-url", owner.url,
        "--application", names["app"], "--auditor", names["auditor"],
    )  # fmt: skip
    assert granted.exit_code == 0, granted.output
    return {kind: Postgresql(database.server, database.name, name) for kind, name in names.items()}


def refused(database: Postgresql, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute(statement)


def test_the_application_serves_and_can_change_no_history(
    roles: dict[str, Postgresql], start_on: Callable[..., Service]
) -> None:
    service = start_on(roles["app"])
    service.publish()
    service.publish(temperature=1)
    assert service.roll_back(expected_version=2).status_code == 200
    assert service.config("concierge", "?client=a&serving=1").ok
    wait_until(lambda: roles["owner"].execute("SELECT client FROM serving") == [("a",)])
    before = roles["owner"].content()
    for statement in [*CHANGES_OF_HISTORY, *ONLY_POSTGRESQL, "DROP TABLE audit", "CREATE TABLE x (y int)"]:
        refused(roles["app"], statement)
    assert roles["owner"].content() == before


def test_an_auditor_reads_history_and_nothing_else(
    roles: dict[str, Postgresql], start_on: Callable[..., Service]
) -> None:
    service = start_on(roles["app"])
    service.publish()
    auditor = roles["auditor"]
    assert auditor.execute("SELECT actor FROM audit") == [("ann",)]
    verified = run("audit", "verify", "--database-url", auditor.url)
    assert (verified.exit_code, "1 rows, all intact" in verified.stdout) == (0, True), verified.output
    for statement in CHANGES_OF_HISTORY:
        refused(auditor, statement)
    for table in ("sessions", "used_tokens", "idempotency", "serving"):
        refused(auditor, f"SELECT * FROM {table}")
    for table in ("audit", "versions", "activations", "alerts", "audit_head"):
        refused(auditor, f"INSERT INTO {table} SELECT * FROM {table}")
    refused(auditor, "UPDATE audit_head SET hash = 'x'")
    refused(auditor, "CREATE TABLE x (y int)")


def test_the_owner_is_refused_by_the_triggers(roles: dict[str, Postgresql]) -> None:
    for statement in CHANGES_OF_HISTORY:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            roles["owner"].execute(statement)


def test_roles_are_for_postgresql_and_need_a_name(database: Postgresql, tmp_path: Path) -> None:
    assert run("db", "grant", "--database-url", database.url).exit_code == 2
    sqlite = f"sqlite:///{tmp_path / 'x.db'}"
    assert run("db", "grant", "--database-url", sqlite, "--auditor", "a").exit_code == 2
    assert run("db", "grant", "--database-url", database.url, "--auditor", "nobody").exit_code == 1


@pytest.mark.parametrize(
    ("right", "thing"),
    [
        ("ALL", "shut_out"),
        ("INSERT", "audit"),
        ("UPDATE", "audit_head"),
        ("SELECT", "idempotency"),
        ("ALL", "SEQUENCE activations_activation_id_seq"),
        ("ALL", "SEQUENCE alerts_alert_id_seq"),
    ],
)
def test_a_service_whose_role_lacks_a_right_that_an_act_needs_is_not_ready(
    roles: dict[str, Postgresql], start_on: Callable[..., Service], right: str, thing: str
) -> None:
    service = start_on(roles["app"])
    app = f"app_{roles['owner'].name}"
    roles["owner"].execute(f"REVOKE {right} ON {thing} FROM {app}")
    answer = service.request("GET", "/-/ready", token=None)
    assert error(answer) == (503, "storage_unavailable")
    assert "driftback db grant" in answer.json()["error"]["message"]
    assert metric(service, "config_database_up 0.0")
    assert run("db", "grant", "--database-url", roles["owner"].url, "--application", app).exit_code == 0
    assert service.request("GET", "/-/ready", token=None).status_code == 200


def test_rights_on_the_columns_are_enough(
    roles: dict[str, Postgresql], start_on: Callable[..., Service]
) -> None:
    app = f"app_{roles['owner'].name}"
    roles["owner"].execute(f"REVOKE UPDATE ON audit_head FROM {app}")
    roles["owner"].execute(f"GRANT UPDATE (audit_id, hash) ON audit_head TO {app}")
    service = start_on(roles["app"])
    assert service.request("GET", "/-/ready", token=None).status_code == 200
    service.publish()
