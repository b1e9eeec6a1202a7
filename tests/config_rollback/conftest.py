"""Fixtures of config_rollback's tests. Each test has its own database and clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from config_rollback import database as schema
from config_rollback.store import Store
from tests.config_rollback.running import Browser, Clock, Database, Service


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


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind that the service supports."""
    assert request.param == "sqlite"
    return Database(f"sqlite:///{tmp_path / 'config_rollback.db'}")


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store with the schema in place."""
    engine = schema.connect(database.url)
    schema.upgrade(engine)
    store = Store(engine)
    yield store
    store.close()


@pytest.fixture
def start(database: Database, clock: Clock) -> Iterator[Callable[..., Service]]:
    """Starts a service; settings may be given by name. All are stopped at the end."""
    running: list[Service] = []

    def start(**settings: Any) -> Service:
        service = Service(database, clock, **settings)
        running.append(service)
        return service.start()

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    """A running service with an empty database."""
    return start()


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    """A browser logged in as ann, of role ops."""
    browser = service.browser()
    yield browser
    browser.close()
