"""What is old goes, in batches and by an index; the record stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from config_rollback import upkeep
from config_rollback.storage import database as schema
from config_rollback.storage import postgresql as driver
from config_rollback.storage.store import FORGETTABLE
from tests.config_rollback.databases import Database, Postgresql
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.evidence.test_alerts import alert, send
from tests.config_rollback.running import Service

RECORD = ("versions", "activations", "audit", "audit_head")


def count(database: Database) -> dict[str, int]:
    return {table: database.execute(f"SELECT count(*) FROM {table}")[0][0] for table in FORGETTABLE}


@pytest.fixture
def used(service: Service) -> Service:
    """A service with a row, and more, in every table."""
    service.publish()
    service.publish(temperature=1)
    service.roll_back(expected_version=2)
    service.roll_back(expected_version=2)
    for _ in range(2):
        service.browser().close()
    send(service, alert(), alert(fingerprint="f2", status="resolved"))
    return service


def pass_days(service: Service, **by: float) -> None:
    service.clock.move(**by)
    service.app.state.dependencies.upkeep.once()


def test_each_kind_is_kept_as_long_as_the_settings_say(used: Service) -> None:
    record = {table: used.database.content()[table] for table in RECORD}
    full = {"sessions": 2, "used_tokens": 2, "idempotency": 4, "alerts": 2}
    assert count(used.database) == full
    pass_days(used, hours=1)
    assert count(used.database) == full | {"used_tokens": 0}
    pass_days(used, days=7)
    assert count(used.database) == full | {"used_tokens": 0, "idempotency": 0}
    pass_days(used, days=23.4)
    assert count(used.database) == {"sessions": 0, "used_tokens": 0, "idempotency": 0, "alerts": 2}
    pass_days(used, days=60)
    assert count(used.database) == dict.fromkeys(FORGETTABLE, 0)
    assert {table: used.database.content()[table] for table in RECORD} == record
    metrics = used.request("GET", "/metrics", token=None).text
    assert 'config_rows_deleted_total{table="sessions"} 2.0' in metrics


@pytest.mark.parametrize("days", [30, -30], ids=["ahead", "behind"])
def test_a_clock_that_jumps_deletes_nothing_for_an_hour_and_says_so(
    used: Service, caplog: pytest.LogCaptureFixture, days: float
) -> None:
    pass_days(used, minutes=59)
    full = count(used.database)
    used.clock.now += timedelta(days=days)
    for _ in range(2):
        pass_days(used, minutes=29)
    assert count(used.database) == full
    assert "config_clock_jumps_total 1.0" in used.request("GET", "/metrics", token=None).text
    assert caplog.text.count("clock_jumped") == 1
    used.clock.now -= timedelta(days=days)
    used.roll_back(key="a retry", expected_version=9)
    pass_days(used, days=8)
    assert count(used.database)["idempotency"] == 5
    pass_days(used, hours=1)
    assert count(used.database)["idempotency"] == 0


def test_an_alert_that_is_told_again_stays(used: Service) -> None:
    used.clock.move(days=60)
    send(used, alert())
    pass_days(used, days=31)
    assert count(used.database)["alerts"] == 1


def test_the_settings_decide(start: Callable[..., Service]) -> None:
    service = start(keep_idempotency_keys_days=2)
    service.publish()
    service.roll_back(key="k", expected_version=1)
    pass_days(service, days=1.9)
    assert ("k",) in service.database.execute("SELECT key FROM idempotency")
    pass_days(service, days=0.2)
    assert service.database.execute("SELECT key FROM idempotency") == []


def test_a_round_is_bounded_and_the_next_goes_on(used: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 2)
    monkeypatch.setattr(upkeep, "MAX_BATCHES", 3)
    for number in range(8):
        used.roll_back(key=f"k{number}", expected_version=9)
    pass_days(used, days=8)
    assert count(used.database)["idempotency"] == 12 - 2 * 3
    pass_days(used)
    assert count(used.database)["idempotency"] == 0


def test_old_rows_are_found_by_an_index(database: Database) -> None:
    engine = schema.connect(database.url)
    with engine.connect() as connection:
        if database.kind == "postgresql":
            connection.exec_driver_sql("SET enable_seqscan = off")  # the tables are small here
        plan = "EXPLAIN" if database.kind == "postgresql" else "EXPLAIN QUERY PLAN"
        for table, moment in FORGETTABLE.items():
            of = f"SELECT * FROM {table} WHERE {moment.key} < '2026-03-01' ORDER BY {moment.key} LIMIT 5"
            rows = connection.exec_driver_sql(f"{plan} {of}").all()
            assert f"ix_{table}_{moment.key}" in str(rows)
    engine.dispose()


def test_it_runs_by_itself_and_a_database_that_fails_is_asked_again(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "INTERVAL_SECONDS", 0.05)
    service = start()
    service.publish()
    service.roll_back(key="k", expected_version=1)
    service.database.execute("ALTER TABLE idempotency RENAME TO away")
    service.clock.move(days=100)
    wait_until(lambda: "upkeep_failed" in caplog.text)
    service.database.execute("ALTER TABLE away RENAME TO idempotency")
    wait_until(lambda: service.database.execute("SELECT * FROM idempotency") == [])


def test_a_role_that_may_not_delete_yet_serves_all_the_same(
    database: Database, start_on: Callable[..., Service], postgresql: Postgresql
) -> None:
    role = f"app_{postgresql.name}"
    owner = schema.connect(postgresql.url)
    postgresql.server.execute(f"CREATE ROLE {role} LOGIN")
    driver.grant(owner, role)
    postgresql.execute(f"REVOKE DELETE ON sessions, idempotency, alerts FROM {role}")
    owner.dispose()
    service = start_on(Postgresql(postgresql.server, postgresql.name, role))
    service.publish()
    pass_days(service, days=100)
    assert service.roll_back(expected_version=1).status_code == 409
