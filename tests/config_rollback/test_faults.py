"""Security cases 36 to 41 and 43: a database that fails, at any moment and in any way."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from config_rollback.audit.chain import Attempt
from config_rollback.storage import database as schema
from config_rollback.storage import postgresql as driver
from config_rollback.storage.store import Store
from tests.config_rollback.databases import Database, Postgresql
from tests.config_rollback.running import Clock, Service, fields
from tests.config_rollback.web.test_api_ops import error
from tests.support.postgres import Server
from tests.support.postgres_proxy import Cut, Proxy


def store_of(service: Service) -> Store:
    store: Store = service.app.state.dependencies.store
    return store


def refuse_inserts(database: Database, table: str) -> None:
    """From now on the database refuses new rows of the table."""
    if database.kind == "sqlite":
        database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        return
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    database.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} EXECUTE FUNCTION refuse()")


def test_36_without_an_audit_table_nothing_is_done(drifted: Service) -> None:
    browser = drifted.browser()
    sent = fields(browser.get("/rollback/concierge?from=2").text.partition("<details>")[0])
    if drifted.database.kind == "sqlite":
        drifted.database.execute("PRAGMA foreign_keys = OFF")
    drifted.database.execute("ALTER TABLE audit RENAME TO audit_away")
    assert error(drifted.roll_back(expected_version=2)) == (503, "audit_unavailable")
    answer = browser.post("/rollback/concierge", sent)
    assert answer.status_code == 503
    assert 'data-code="audit_unavailable"' in answer.text
    refused = drifted.request("GET", "/v1/ops/personas", token=drifted.token("support"))
    assert error(refused) == (503, "audit_unavailable")
    assert drifted.active_version() == 2
    scrape = drifted.request("GET", "/metrics")
    assert scrape.status_code == 200  # the alerts about this fault read it
    told = {
        "config_audit_failures_total 3.0",
        'config_rollbacks_total{status="failed"} 2.0',
        'config_active_version{persona="concierge"} 2.0',
    }
    assert told | {"config_database_up 0.0"} <= set(scrape.text.splitlines())
    assert "config_version_predecessor_info{" not in scrape.text
    drifted.database.execute("ALTER TABLE audit_away RENAME TO audit")
    text = drifted.request("GET", "/metrics").text
    assert told | {"config_database_up 1.0"} <= set(text.splitlines())
    assert "config_version_predecessor_info{" in text
    assert drifted.roll_back(expected_version=2).status_code == 200
    browser.close()


@pytest.mark.parametrize("table", ["audit", "activations", "idempotency"])
def test_36_a_row_that_is_refused_takes_everything_with_it(drifted: Service, table: str) -> None:
    refuse_inserts(drifted.database, table)
    before = drifted.database.content()
    assert error(drifted.roll_back(expected_version=2)) == (503, "audit_unavailable")
    assert drifted.database.content() == before


def test_the_log_names_the_cause_and_no_contents(drifted: Service, caplog: pytest.LogCaptureFixture) -> None:
    if drifted.database.kind == "sqlite":
        refuse_inserts(drifted.database, "versions")
        told = {"cause": "no", "sqlstate": None}
    else:  # PostgreSQL tells the whole row that a constraint refuses, apart from the message
        drifted.database.execute("ALTER TABLE versions ADD CONSTRAINT picky CHECK (number < 3) NOT VALID")
        cause = 'new row for relation "versions" violates check constraint "picky"'
        told = {"cause": cause, "sqlstate": "23514"}
    secret = drifted.version(1)["config"] | {"system_prompt": "only for insiders"}
    path = "/v1/ops/personas/concierge/versions"
    answer = drifted.request("POST", path, json={"config": secret}, headers={"Idempotency-Key": "p"})
    assert error(answer) == (503, "audit_unavailable")
    lines = [json.loads(record.message) for record in caplog.records if "storage_failed" in record.message]
    assert lines == [{"event": "storage_failed", "request_id": answer.json()["request_id"], **told}]
    assert "insiders" not in caplog.text


def test_36_without_the_end_of_the_chain_nothing_is_done(
    drifted: Service, caplog: pytest.LogCaptureFixture
) -> None:
    drifted.database.execute("DELETE FROM audit_head")
    before = drifted.database.content()
    assert error(drifted.roll_back(expected_version=2)) == (503, "audit_unavailable")
    assert drifted.database.content() == before
    text = drifted.request("GET", "/metrics").text
    assert "config_audit_failures_total 1.0" in text
    assert 'config_rollbacks_total{status="failed"} 1.0' in text
    assert "audit_head has no row" in caplog.text


@contextmanager
def full_disk(database: Database, engine: Engine) -> Iterator[None]:
    """The database's files cannot grow any more.

    SQLite has a setting for it. PostgreSQL's processes get a limit on the size of a file (RLIMIT_FSIZE): a
    table's extension then fails where it would fail with ENOSPC, with EFBIG instead. The limit is above the
    size of a WAL segment (1 MiB here): a full disk under the WAL ends the whole server, which is case 40.
    """
    if isinstance(database, Postgresql):
        (size,) = database.execute("SELECT pg_relation_size('audit')")[0]
        with database.server.file_size_limit(size + 2 * 8192):
            reconnect(database)
            yield
        reconnect(database)
        return
    (pages,) = database.execute("PRAGMA page_count")[0]
    with at_checkout(engine, f"PRAGMA max_page_count = {pages}", "PRAGMA max_page_count = 1000000"):
        yield


def reconnect(database: Postgresql) -> None:
    """Ends the service's connections, so that it opens others."""
    database.server.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database.name}'"
    )


@contextmanager
def at_checkout(engine: Engine, pragma: str, afterwards: str) -> Iterator[None]:
    """Sets a pragma on every connection of SQLite that is about to be used, and then another."""
    now = [pragma]

    def set_pragma(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute(now[0])

    event.listen(engine, "checkout", set_pragma)
    yield
    now[0] = afterwards


def test_37_on_a_full_disk_nothing_is_done(drifted: Service, clock: Clock) -> None:
    rng = random.Random(1)
    text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1500))
    store = store_of(drifted)
    with store.write() as transaction:
        for _ in range(700):  # a table of about the limit on PostgreSQL
            row = Attempt(at=clock(), request_id="r", actor="a", role="ops", action="publish", reason=text)
            transaction.append_audit(replace(row, status="failed", error_code="config_changed_since_alert"))
    with full_disk(drifted.database, store.engine):
        for _ in range(100):
            before = drifted.database.content()
            answer = drifted.roll_back(expected_version=1, reason=text)
            if answer.status_code != 409:
                break
        assert error(answer) == (503, "audit_unavailable")
        assert drifted.database.content() == before
        assert drifted.active_version() == 2
    assert drifted.roll_back(expected_version=2, reason=text).status_code == 200
    assert drifted.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"] is True


def test_38_without_the_right_to_insert_nothing_is_done(drifted: Service) -> None:
    """SQLite has no grants; a connection that may only read is the nearest."""
    database = drifted.database
    with ExitStack() as stack:
        if database.kind == "sqlite":
            engine = store_of(drifted).engine
            stack.enter_context(at_checkout(engine, "PRAGMA query_only = ON", "PRAGMA query_only = OFF"))
        else:
            database.execute("REVOKE INSERT ON audit FROM CURRENT_USER")
            stack.callback(database.execute, "GRANT INSERT ON audit TO CURRENT_USER")
        before = database.content()
        assert error(drifted.roll_back(expected_version=2)) == (503, "audit_unavailable")
        assert database.content() == before
    assert drifted.roll_back(expected_version=2).status_code == 200


def test_39_a_lock_held_too_long_is_said_and_nothing_is_done(
    database: Database, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Service]
) -> None:
    monkeypatch.setattr(schema.connect, "__defaults__", (0.2,))
    service = start()
    service.publish()
    service.publish(temperature=1)
    engine = schema.connect(database.url)
    with engine.connect().execution_options(driftback_write=True) as holder, holder.begin():
        assert error(service.roll_back(expected_version=2)) == (503, "storage_busy")
    engine.dispose()
    assert service.active_version() == 2
    assert service.roll_back(expected_version=2).status_code == 200


def test_39_a_row_lock_of_a_stranger_is_said_too(
    postgresql: Postgresql, start_on: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema.connect, "__defaults__", (0.2,))
    service = start_on(postgresql)
    service.publish()
    service.publish(temperature=1)
    with psycopg.connect(postgresql.url) as stranger:
        stranger.execute("SELECT * FROM audit_head FOR UPDATE")
        assert error(service.roll_back(expected_version=2)) == (503, "storage_busy")
    assert service.roll_back(expected_version=2).status_code == 200


def test_39_a_lock_timeout_is_known_in_every_language(
    postgresql: Postgresql, start_on: Callable[..., Service]
) -> None:
    service = start_on(postgresql)
    service.publish()
    service.publish(temperature=1)
    postgresql.execute(
        "CREATE FUNCTION german() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
        "USING ERRCODE = '55P03', MESSAGE = 'storniere Anfrage wegen Zeitüberschreitung'; END $$"
    )
    postgresql.execute("CREATE TRIGGER german BEFORE INSERT ON audit EXECUTE FUNCTION german()")
    assert error(service.roll_back(expected_version=2)) == (503, "storage_busy")


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        proxy = Proxy(Path(folder), postgres.folder)
        proxy_url[proxy] = folder
        yield proxy
        proxy.close()
        del proxy_url[proxy]


proxy_url: dict[Proxy, str] = {}


def behind(proxy: Proxy, postgresql: Postgresql) -> Postgresql:
    """The same database, by way of the proxy."""
    through = Postgresql(postgresql.server, postgresql.name)
    through.url = postgresql.url.replace(str(postgresql.server.folder), proxy_url[proxy])
    return through


@pytest.mark.parametrize("cut", get_args(Cut))
def test_40_after_a_commit_that_nobody_confirmed_the_retry_tells_the_truth(
    postgresql: Postgresql,
    proxy: Proxy,
    start_on: Callable[..., Service],
    cut: Cut,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "SILENCE_SECONDS", 2.0)
    service = start_on(behind(proxy, postgresql))
    service.publish()
    service.publish(temperature=1)
    before = postgresql.content()
    proxy.arm(cut)
    answer = service.roll_back(key="k", expected_version=2)
    assert error(answer) == (503, "outcome_unknown")
    assert not proxy.armed
    assert (postgresql.content() == before) == cut.startswith("request")
    assert "config_audit_failures_total 0.0" in service.request("GET", "/metrics").text
    again = service.roll_back(key="k", expected_version=2)
    assert again.status_code == 200
    assert service.active_version() == 1
    assert [row["action"] for row in service.audit()] == ["publish", "publish", "rollback"]
    assert again.json()["data"]["audit_id"] == 3


def test_40_a_server_that_goes_silent_hangs_nobody(
    postgresql: Postgresql,
    proxy: Proxy,
    start_on: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(driver, "SILENCE_SECONDS", 2.0)
    monkeypatch.setitem(driver.PARAMETERS, "connect_timeout", 2)
    service = start_on(behind(proxy, postgresql))
    service.publish()
    service.publish(temperature=1)
    before = postgresql.content()
    proxy.silent = True
    assert error(service.roll_back(key="k", expected_version=2)) == (503, "audit_unavailable")
    assert "config_database_up 0.0" in service.request("GET", "/metrics").text
    # A scrape has ten seconds: it asks once.
    assert "convergence_of_this_replica_only" not in caplog.text
    proxy.silent = False
    assert postgresql.content() == before
    assert service.roll_back(key="k", expected_version=2).status_code == 200


def test_postgresql_itself_ends_what_takes_too_long(postgresql: Postgresql) -> None:
    engine = schema.connect(postgresql.url)
    with engine.connect() as connection:
        shown = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        }
    engine.dispose()
    # The lock's first, which is told apart, then the statement's; the client gives up after both.
    limits = {"lock_timeout": "5s", "statement_timeout": "8s", "idle_in_transaction_session_timeout": "15s"}
    assert shown == limits
    assert driver.SILENCE_SECONDS > driver.STATEMENT_SECONDS


def test_a_migration_may_take_longer(postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(driver, "STATEMENT_SECONDS", 0.5)
    engine = schema.connect(postgresql.url)
    slow = "SELECT pg_sleep(1.5)"

    def work(config: Config, _revision: str) -> None:
        config.attributes["connection"].exec_driver_sql(slow)

    monkeypatch.setattr(command, "upgrade", work)
    schema.upgrade(engine)
    # Else a server that is a little late with its word is given up.
    monkeypatch.setattr(driver, "SILENCE_SECONDS", 30.0)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="statement timeout"):
        connection.exec_driver_sql(slow)
    engine.dispose()


class Fault:
    """Fails the `position`-th statement of write transactions; COMMIT counts as the last one.

    `moment`: `before` the database has it, or `after` it was carried out.
    """

    def __init__(self, engine: Engine, position: int, moment: str) -> None:
        self._engine = engine
        self._position = position
        self._moment = moment
        self._seen = 0
        self._commit = engine.dialect.do_commit
        self.hit: str | None = None

    def __enter__(self) -> Fault:
        event.listen(self._engine, "do_execute", self._execute)
        self._engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "do_execute", self._execute)
        self._engine.dialect.do_commit = self._commit  # type: ignore[method-assign]

    def _due(self, statement: str) -> bool:
        self._seen += 1
        if self._seen == self._position:
            self.hit = statement
        return self._seen == self._position

    def _failure(self) -> Exception:
        failure: Exception = self._engine.dialect.loaded_dbapi.OperationalError("injected")
        return failure

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        writes = context.root_connection.get_execution_options().get("driftback_write")
        if writes and self._due(statement):
            if self._moment == "after":
                cursor.execute(statement, parameters)
            raise self._failure()

    def _do_commit(self, connection: Any) -> None:
        if self._due("COMMIT"):
            raise self._failure()
        self._commit(connection)


WISHES: dict[str, Callable[[Service], Any]] = {
    "a rollback": lambda service: service.roll_back(expected_version=2),
    "a refusal": lambda service: service.roll_back(expected_version=1),
    "a publication": lambda service: service.request(
        "POST",
        "/v1/ops/personas/concierge/versions",
        json={"config": service.version(1)["config"]},
        headers={"Idempotency-Key": "p"},
    ),
    "an attempt without the role": lambda service: service.roll_back(
        expected_version=2, token=service.token("support")
    ),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("wish", WISHES)
def test_41_an_error_at_every_single_statement_is_all_or_nothing(
    drifted: Service, wish: str, moment: str
) -> None:
    store = store_of(drifted)
    before = drifted.database.content()
    hit: list[str] = []
    for position in range(1, 50):
        with Fault(store.engine, position, moment) as fault:
            answer = WISHES[wish](drifted)
        if fault.hit is None:
            break
        hit.append(fault.hit)
        assert error(answer) == (503, "audit_unavailable"), fault.hit
        assert drifted.database.content() == before, fault.hit
    assert hit[-1] == "COMMIT"
    assert any("INSERT INTO audit" in statement for statement in hit)
    assert len(hit) >= 5
    assert answer.status_code < 500, answer.text
    assert drifted.database.content() != before
    assert len(drifted.audit()) == 3


CHANGES_OF_HISTORY = [
    "UPDATE audit SET actor = 'nobody'",
    "UPDATE audit SET reason = 'x' WHERE audit_id = 1",
    "DELETE FROM audit",
    "DELETE FROM audit WHERE audit_id = 2",
    "INSERT INTO audit SELECT * FROM audit WHERE true ON CONFLICT (audit_id) DO UPDATE SET actor = 'nobody'",
    "UPDATE versions SET config_json = '{}'",
    "DELETE FROM versions",
    "UPDATE activations SET version = 1",
    "DELETE FROM activations WHERE activation_id = 2",
]
ONLY_SQLITE = [
    "REPLACE INTO audit SELECT * FROM audit WHERE audit_id = 1",
    "INSERT OR REPLACE INTO audit SELECT * FROM audit",
    "REPLACE INTO versions SELECT * FROM versions WHERE number = 1",
    "REPLACE INTO activations SELECT * FROM activations",
    # Of the same audit row, under a number of its own.
    (
        "REPLACE INTO activations SELECT 99, persona, version, NULL, action, activated_at, 'x', audit_id"
        " FROM activations WHERE activation_id = 2"
    ),
]
ONLY_POSTGRESQL = [
    "TRUNCATE audit CASCADE",
    "TRUNCATE versions, activations, audit",
    "TRUNCATE activations",
    "DELETE FROM ONLY audit",
    "MERGE INTO audit a USING audit b ON a.audit_id = b.audit_id WHEN MATCHED THEN DELETE",
]


def refuses(database: Database, statement: str) -> None:
    before = database.content()
    with pytest.raises(Exception, match="append-only"):
        database.execute(statement)
    assert database.content() == before


@pytest.mark.parametrize("statement", CHANGES_OF_HISTORY)
def test_43_the_database_refuses_to_change_history(drifted: Service, statement: str) -> None:
    refuses(drifted.database, statement)


def test_43_each_database_refuses_its_own_ways_too(drifted: Service) -> None:
    ways = ONLY_SQLITE if drifted.database.kind == "sqlite" else ONLY_POSTGRESQL
    for statement in ways:
        refuses(drifted.database, statement)


def test_43_replication_mode_opens_no_way_round_the_triggers(
    postgresql: Postgresql, start_on: Callable[..., Service]
) -> None:
    service = start_on(postgresql)
    service.publish()
    with pytest.raises(psycopg.Error, match="append-only"):
        postgresql.server.execute(
            "SET session_replication_role = replica; DELETE FROM activations", postgresql.name
        )


def test_43_a_role_with_the_least_rights_runs_the_service_and_cannot_touch_history(
    postgresql: Postgresql, start_on: Callable[..., Service]
) -> None:
    role = f"app_{postgresql.name}"
    postgresql.server.execute(f"CREATE ROLE {role} LOGIN")
    owner = schema.connect(postgresql.url)
    postgresql.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    driver.grant(owner, role)
    owner.dispose()
    limited = Postgresql(postgresql.server, postgresql.name, role)
    service = start_on(limited)
    service.publish()
    service.publish(temperature=1)
    browser = service.browser()
    assert service.roll_back(expected_version=2).status_code == 200
    assert browser.get("/").status_code == 200
    sent = fields(browser.get("/").text)
    assert browser.post("/logout", sent).status_code == 303
    browser.close()
    before = limited.content()
    for statement in [*CHANGES_OF_HISTORY, *ONLY_POSTGRESQL, "DROP TABLE audit", "DELETE FROM audit_head"]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            limited.execute(statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        limited.execute("ALTER TABLE audit DISABLE TRIGGER USER")
    assert limited.content() == before
