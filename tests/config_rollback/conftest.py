"""Fixtures of config_rollback's tests. Each test has its own database and clock.

A database is a copy of one in which the migrations have run, for they take longer than most tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from config_rollback.storage import database as schema
from config_rollback.storage import postgresql as driver
from config_rollback.storage.store import Store
from tests.config_rollback.databases import Database, Postgresql, Sqlite
from tests.config_rollback.running import Browser, Clock, Service
from tests.support.postgres import Server

ON_BOTH_DATABASES = {
    "test_access",
    "test_alerts",
    "test_api_ops",
    "test_audit",
    "test_backup",
    "test_baseline",
    "test_browser",
    "test_crash",
    "test_delivery",
    "test_faults",
    "test_metrics",
    "test_migrations",
    "test_openapi",
    "test_record",
    "test_refusals",
    "test_secrets",
    "test_shut_out",
    "test_state",
    "test_state_machine",
    "test_store",
    "test_upkeep",
}
ON_POSTGRESQL = {"test_replicas", "test_roles"}
"""SQLite serves one process."""


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Log lines go to the standard library's logging, where `caplog` finds them."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; started by the first test that asks for one."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables in place, which nobody opens any more."""
    file = tmp_path_factory.mktemp("template") / "config_rollback.db"
    make_tables(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres: Server) -> str:
    """The name of a database with the tables in place, which nobody opens any more."""
    name = postgres.create_database()
    make_tables(postgres.url(name))
    return name


def make_tables(url: str) -> None:
    """Runs the migrations."""
    engine = schema.connect(url)
    schema.upgrade(engine)
    engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path, sqlite_template: Path) -> Sqlite:
    """A SQLite database without a row."""
    return Sqlite(Path(shutil.copyfile(sqlite_template, tmp_path / "config_rollback.db")))


@pytest.fixture
def postgresql(postgres: Server, postgres_template: str) -> Postgresql:
    """A PostgreSQL database without a row; it goes with the server."""
    return Postgresql(postgres, postgres.create_database(postgres_template))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of storage run on both databases, those of pages, tokens and commands on SQLite."""
    module = metafunc.module.__name__.rpartition(".")[2]
    kinds = ["sqlite"] if module not in ON_POSTGRESQL else []
    kinds += ["postgresql"] if module in ON_BOTH_DATABASES | ON_POSTGRESQL else []
    for fixture in {"database", "quiet_service"} & set(metafunc.fixturenames):
        metafunc.parametrize(fixture, kinds, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Database:
    """A database without a row, of each kind that the service supports."""
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def patient_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many writers at once, on a slow disk: the last waits for longer than a user would be let wait."""
    monkeypatch.setattr(schema.connect, "__defaults__", (60.0,))
    for limit in ("STATEMENT_SECONDS", "SILENCE_SECONDS"):
        monkeypatch.setattr(driver, limit, 60.0)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store on the test's database."""
    store = Store(schema.connect(database.url))
    yield store
    store.close()


@pytest.fixture
def start_on(clock: Clock) -> Iterator[Callable[..., Service]]:
    """Starts a service on the database given; settings may be given by name. All are stopped at the end."""
    running: list[Service] = []

    def start(database: Database, **settings: Any) -> Service:
        service = Service(database, clock, **settings)
        running.append(service)
        return service.start()

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def start(database: Database, start_on: Callable[..., Service]) -> Callable[..., Service]:
    """The same on the test's database."""
    return partial(start_on, database)


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    """A running service with an empty database."""
    return start()


@pytest.fixture(scope="module")
def quiet_service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A running service with one version, shared by the tests of a module that change nothing."""
    database: Database
    if request.param == "sqlite":
        file = tmp_path_factory.mktemp("quiet") / "config_rollback.db"
        database = Sqlite(Path(shutil.copyfile(request.getfixturevalue("sqlite_template"), file)))
    else:
        server: Server = request.getfixturevalue("postgres")
        name = server.create_database(request.getfixturevalue("postgres_template"))
        database = Postgresql(server, name)
    service = Service(database, Clock()).start()
    service.publish()
    yield service
    service.stop()


@pytest.fixture
def drifted(service: Service) -> Service:
    """A persona whose version 2 is bad."""
    service.publish()
    service.publish(allowed_topics=["orders"])
    return service


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    """A browser logged in as ann, of role ops."""
    browser = service.browser()
    yield browser
    browser.close()
