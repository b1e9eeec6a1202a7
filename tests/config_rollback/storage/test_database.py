"""PostgreSQL in its surroundings: behind PgBouncer, as a standby, and with options of its URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from config_rollback.delivery import delivery
from config_rollback.storage import database as schema
from tests.config_rollback.databases import Postgresql
from tests.config_rollback.delivery.test_delivery import metric, poll, tag, wait_until
from tests.config_rollback.running import Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Server

StartOn = Callable[..., Service]


@pytest.fixture
def bouncer(postgres: Server) -> Iterator[PgBouncer]:
    bouncer = PgBouncer(postgres)
    yield bouncer
    bouncer.close()


def settings(engine: Engine) -> dict[str, str]:
    """What bounds a transaction, as PostgreSQL says."""
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "search_path")
    with engine.begin() as connection:
        return {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}


def test_the_whole_service_runs_behind_pgbouncer_in_transaction_mode(
    start_on: StartOn, postgresql: Postgresql, bouncer: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    direct, pooled = postgresql.url, bouncer.url(postgresql.name)
    postgresql.url = pooled
    ours, theirs = start_on(postgresql), start_on(postgresql)
    postgresql.url = direct  # for what the test itself looks up
    ours.publish()
    ours.publish(temperature=1)
    # Often, and at once: a statement prepared on one server connection is missing on the next.
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(service.request, "GET", "/v1/ops/personas")
            for _ in range(60)
            for service in (ours, theirs)
        ]
        assert {answer.result().status_code for answer in asked} == {200}
        wait_until(lambda: theirs.config().ok)
        polls = poll(theirs, pool, "concierge", tag(2, 2, temperature=1), 3)
        assert ours.roll_back(expected_version=2).status_code == 200
        assert {answer.result(30).json()["data"]["version"] for answer in polls} == {1}
    browser = theirs.browser()
    assert browser.get("/rollback/concierge").status_code == 200
    browser.close()
    for service in (ours, theirs):
        assert service.request("GET", "/-/ready", token=None).status_code == 200
        assert metric(service, "config_database_up 1.0")
    assert "storage_failed" not in caplog.text
    assert caplog.text.count("listening_impossible") == 2


def test_behind_pgbouncer_a_transaction_is_bounded_and_the_next_client_is_not(
    postgresql: Postgresql, bouncer: PgBouncer
) -> None:
    engine = schema.connect(bouncer.url(postgresql.name), 2.5)
    bounded = settings(engine)
    assert (bounded["lock_timeout"], bounded["statement_timeout"]) == ("2500ms", "8s")
    assert bounded["idle_in_transaction_session_timeout"] == "15s"
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.autocommit = True
        assert driver.execute("SHOW statement_timeout").fetchone() == ("0",)
        driver.autocommit = False
    engine.dispose()


def test_the_options_of_the_url_are_kept(postgresql: Postgresql) -> None:
    options = "-c%20search_path=other%20-c%20statement_timeout=60000"
    engine = schema.connect(f"{postgresql.url}&options={options}&connect_timeout=77")
    assert settings(engine) == {
        "lock_timeout": "5s",
        "statement_timeout": "1min",
        "idle_in_transaction_session_timeout": "15s",
        "search_path": "other",
    }
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["connect_timeout"] == "77"
    engine.dispose()


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ("-c%20other.lock_timeout=2s", "5s"),
        ("-clock_timeout=7s", "7s"),
        ("--lock-timeout=7s", "7s"),
        ("-c%20LOCK_TIMEOUT=7s", "7s"),
    ],
)
def test_an_option_of_the_url_is_known_by_its_whole_name(
    postgresql: Postgresql, options: str, limit: str
) -> None:
    engine = schema.connect(f"{postgresql.url}&options={options}")
    assert settings(engine)["lock_timeout"] == limit
    engine.dispose()


@pytest.fixture
def standby(postgres: Server, postgresql: Postgresql, start_on: StartOn) -> Iterator[Server]:
    """A standby of the server, whose database has a persona."""
    service = start_on(postgresql)
    service.publish()
    service.publish(temperature=1)
    standby = Server(primary=postgres)
    yield standby
    standby.close()


def test_a_standby_is_not_ready_until_it_is_promoted(
    start_on: StartOn,
    standby: Server,
    postgresql: Postgresql,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(delivery, "WATCH_SECONDS", 0.1)
    caplog.set_level(logging.ERROR)
    service = start_on(Postgresql(standby, postgresql.name))
    assert error(service.request("GET", "/-/ready", token=None)) == (503, "storage_unavailable")
    assert metric(service, "config_database_up 0.0")
    assert "the database takes no writes" in caplog.text
    assert service.config().json()["data"]["version"] == 2, "what it knows it serves"
    assert error(service.roll_back(expected_version=2)) == (503, "audit_unavailable")
    standby.execute("SELECT pg_promote()")
    assert service.request("GET", "/-/ready", token=None).status_code == 200
    assert metric(service, "config_database_up 1.0")
    assert service.roll_back(expected_version=2).status_code == 200


def test_a_database_set_read_only_is_not_ready(start_on: StartOn, postgresql: Postgresql) -> None:
    service = start_on(postgresql)
    assert service.request("GET", "/-/ready", token=None).status_code == 200
    postgresql.server.execute(f"ALTER DATABASE {postgresql.name} SET default_transaction_read_only = on")
    # It holds for new connections.
    postgresql.server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{postgresql.name}'"
    )
    assert error(service.request("GET", "/-/ready", token=None)) == (503, "storage_unavailable")
    assert metric(service, "config_database_up 0.0")
