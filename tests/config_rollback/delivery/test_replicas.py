"""Several replicas on one PostgreSQL and one Redis act as one."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from config_rollback.auth.tokens import mint_access_token
from config_rollback.delivery import convergence, delivery
from config_rollback.delivery.convergence import SEEN_WITHIN
from config_rollback.delivery.listening import Listener
from config_rollback.storage.store import Store
from tests.config_rollback.databases import Postgresql
from tests.config_rollback.delivery.test_delivery import poll, tag, wait_until
from tests.config_rollback.running import CONFIG, SECRET, SERVICE_TOKEN, Clock, Service, fields
from tests.config_rollback.test_main import Process
from tests.config_rollback.test_metrics import value
from tests.config_rollback.web.test_pages import attribute
from tests.support.redis import Redis

NEVER = 600.0

Start = Callable[..., Service]


@pytest.fixture
def told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas do not look by themselves within a test."""
    monkeypatch.setattr(delivery, "WATCH_SECONDS", NEVER)
    monkeypatch.setattr(delivery, "RELY_SECONDS", NEVER)


@pytest.fixture
def pair(start: Start) -> tuple[Service, Service]:
    """Two replicas, known to browsers by one address."""
    first = start()
    return first, start(external_url=first.url)


def version_of(service: Service) -> int | None:
    answer = service.config()
    return int(answer.json()["data"]["version"]) if answer.ok else None


@pytest.mark.usefixtures("told_alone")
def test_an_activation_by_one_replica_wakes_the_long_polls_of_the_other(
    pair: tuple[Service, Service],
) -> None:
    ours, theirs = pair
    ours.publish()
    ours.publish(temperature=1)
    wait_until(lambda: version_of(theirs) == 2)
    with ThreadPoolExecutor(20) as pool:
        polls = poll(theirs, pool, "concierge", tag(2, 2, temperature=1), 20)
        assert ours.roll_back(expected_version=2).status_code == 200
        assert {answer.result(10).json()["data"]["version"] for answer in polls} == {1}


@pytest.mark.usefixtures("told_alone")
def test_a_listening_connection_that_broke_is_opened_again_and_misses_nothing(
    pair: tuple[Service, Service], database: Postgresql
) -> None:
    ours, theirs = pair
    ours.publish()
    listening = f"FROM pg_stat_activity WHERE datname = '{database.name}' AND query LIKE 'LISTEN%'"
    wait_until(lambda: database.server.execute(f"SELECT count(*) {listening}") == [(2,)])
    wait_until(lambda: version_of(theirs) == 1)
    ended = database.server.execute(f"SELECT pg_terminate_backend(pid) {listening}")
    assert len(ended) == 2
    ours.publish(temperature=1)
    wait_until(lambda: version_of(theirs) == 2)


@pytest.mark.usefixtures("told_alone")
def test_a_replica_that_was_told_nothing_takes_no_client_back_to_an_older_version(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hear_nothing(_: Listener) -> None:
        await asyncio.sleep(NEVER)

    monkeypatch.setattr(Listener, "run", hear_nothing)
    ours = start()
    ours.publish()
    theirs = start()
    ours.publish(temperature=1)
    assert version_of(theirs) == 1, "the test is about a replica that is behind"
    known = {"If-None-Match": tag(2, 2, temperature=1)}
    assert theirs.config(**known).status_code == 304
    assert version_of(theirs) == 2


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError("a pooler between does not pass LISTEN"), ZeroDivisionError()],
    ids=["a pooler", "a defect"],
)
def test_where_nothing_can_be_heard_replicas_look_by_themselves_and_listen_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tries: list[Listener] = []

    async def fail(listener: Listener) -> None:
        tries.append(listener)
        raise error

    monkeypatch.setattr(Listener, "_listen", fail)
    ours, theirs = start(), start()
    ours.publish()
    wait_until(lambda: version_of(theirs) == 1)
    wait_until(lambda: min(map(tries.count, set(tries))) > 1)


@pytest.mark.usefixtures("patient_writers")
def test_of_parallel_rollbacks_at_two_replicas_one_wins(pair: tuple[Service, Service]) -> None:
    pair[0].publish()
    pair[0].publish(temperature=1)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: pair[n % 2].roll_back(expected_version=2), range(32)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 31
    assert [row["status"] for row in pair[1].audit()].count("succeeded") == 3
    assert pair[1].request("GET", "/v1/ops/audit/verify").json()["data"]["valid"] is True


def test_a_retry_at_the_other_replica_gets_the_first_answer(pair: tuple[Service, Service]) -> None:
    pair[0].publish()
    pair[0].publish(temperature=1)
    with ThreadPoolExecutor(16) as pool:
        wishes = pool.map(lambda n: pair[n % 2].roll_back(key="k", expected_version=2), range(16))
        answers = list(wishes)
    done = [answer.json()["data"] for answer in answers if answer.status_code == 200]
    # Within a replica the first may still run; between replicas the second waits for it.
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(done) >= 2
    assert all(data == done[0] for data in done)
    assert [row["action"] for row in pair[0].audit()] == ["publish", "publish", "rollback"]


def test_a_session_is_good_at_every_replica_and_ends_at_all(pair: tuple[Service, Service]) -> None:
    ours, theirs = pair
    here = ours.browser()
    ours.publish()
    cookies = here.session.cookies
    there = requests.get(theirs.url + "/", cookies=cookies, allow_redirects=False, timeout=10)
    assert there.status_code == 200
    here.post("/logout", fields(here.get("/").text))
    for replica in pair:
        page = requests.get(
            f"{replica.url}/", cookies={ours.cookie_name: cookie_of(there)}, timeout=10, allow_redirects=False
        )
        assert page.status_code == 401
    here.close()


def cookie_of(answer: requests.Response) -> str:
    """The session's secret, as it was sent."""
    sent: str = answer.request.headers["Cookie"]
    return sent.partition("=")[2]


def reported(replica: Service, name: str, version: int, persona: str = "p") -> None:
    """The process polls this replica and says what it serves."""
    replica.clock.move(milliseconds=1)
    assert replica.config(persona, f"?client={name}&serving={version}").ok


def counts(replica: Service, persona: str = "p") -> tuple[int, int]:
    """On how many processes the replica's page says that the restored version is, and of how many."""
    browser = replica.browser()
    page = browser.get(f"/rollback/{persona}?result=3").text
    browser.close()
    converged, clients = (
        attribute(page, "rollback-result", f"data-{name}") for name in ("converged", "clients")
    )
    return int(converged), int(clients)


def all_show(replicas: tuple[Service, Service], expected: tuple[int, int]) -> None:
    """Waits until every replica's page says so."""
    wait_until(lambda: [counts(replica) for replica in replicas] == [expected] * len(replicas))


def in_metrics(replicas: tuple[Service, Service], version: int) -> float:
    """What Prometheus has of a version, summed over replicas."""
    found = [
        value(replica, "config_clients", persona="p", config_version=str(version)) for replica in replicas
    ]
    return sum(number or 0 for number in found)


@pytest.fixture
def rolled_back(pair: tuple[Service, Service]) -> tuple[Service, Service]:
    """Two replicas, on both of which processes serve the version that was left: x and y here, z there."""
    ours, theirs = pair
    ours.publish("p")
    ours.publish("p", temperature=1)
    wait_until(lambda: theirs.config("p").ok)
    for replica, name in ((ours, "x"), (ours, "y"), (theirs, "z")):
        reported(replica, name, 2)
    assert ours.roll_back("p", expected_version=2).status_code == 200
    return pair


def test_every_replicas_page_counts_the_processes_of_all(rolled_back: tuple[Service, Service]) -> None:
    ours, theirs = rolled_back
    all_show(rolled_back, (0, 3))
    reported(ours, "x", 1)
    reported(ours, "y", 1)
    all_show(rolled_back, (2, 3))
    reported(theirs, "z", 1)
    all_show(rolled_back, (3, 3))
    browser = ours.browser()
    assert "All 3 serving processes are" in browser.get("/rollback/p?result=3").text
    assert "3" in browser.get("/").text
    browser.close()


def test_a_process_that_went_over_to_another_replica_counts_once(
    rolled_back: tuple[Service, Service],
) -> None:
    ours, theirs = rolled_back
    reported(theirs, "x", 1)
    all_show(rolled_back, (1, 3))
    wait_until(lambda: (in_metrics(rolled_back, 1), in_metrics(rolled_back, 2)) == (1, 2))
    reported(ours, "x", 1)
    wait_until(lambda: (in_metrics(rolled_back, 1), in_metrics(rolled_back, 2)) == (1, 2))
    all_show(rolled_back, (1, 3))


def test_a_process_that_died_is_forgotten_after_a_minute(
    rolled_back: tuple[Service, Service], database: Postgresql
) -> None:
    ours, theirs = rolled_back
    wait_until(lambda: counts(ours) == (0, 3))
    ours.clock.move(seconds=59)
    reported(theirs, "z", 1)
    ours.clock.move(seconds=2)
    all_show(rolled_back, (1, 1))
    reported(ours, "w", 1)
    wait_until(lambda: database.execute("SELECT client FROM serving ORDER BY 1") == [("w",), ("z",)])


def test_reports_that_cannot_be_shared_hold_up_nothing_and_are_shared_later(
    rolled_back: tuple[Service, Service],
    database: Postgresql,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(convergence, "RETRY_SECONDS", 0.1)
    ours, theirs = rolled_back
    wait_until(lambda: counts(ours) == (0, 3))
    database.execute("ALTER TABLE serving RENAME TO gone")
    reported(ours, "x", 1)
    assert counts(ours) == (1, 2), "those that poll this replica"
    with ThreadPoolExecutor(4) as pool:
        polls = poll(theirs, pool, "p", tag(1, 3), 4)
        assert ours.publish("p", temperature=2) == 3
        assert {answer.result(10).json()["data"]["version"] for answer in polls} == {3}
    assert [replica.request("GET", "/metrics").status_code for replica in rolled_back] == [200, 200]
    wait_until(lambda: "convergence_not_shared" in caplog.text)
    database.execute("ALTER TABLE gone RENAME TO serving")
    all_show(rolled_back, (1, 3))


def test_what_replicas_tell_each_other_is_bounded(store: Store, clock: Clock) -> None:
    for name in "abcdef":
        clock.move(seconds=1)
        with store.write_unordered() as transaction:
            transaction.note_serving([("p", name, 1, clock())], forget=clock() - SEEN_WITHIN, keep=4)
    with store.read() as transaction:
        assert sorted(row[1] for row in transaction.serving(clock() - SEEN_WITHIN)) == list("cdef")


def test_an_older_report_that_comes_late_changes_nothing(store: Store, clock: Clock) -> None:
    before, now = clock() - timedelta(seconds=1), clock()
    for version, at in ((2, now), (1, before)):
        with store.write_unordered() as transaction:
            transaction.note_serving([("p", "a", version, at)], forget=now - SEEN_WITHIN, keep=4)
    with store.read() as transaction:
        assert transaction.serving(before) == [("p", "a", 2, now)]


@pytest.fixture
def processes(tmp_path: Path, database: Postgresql) -> Iterator[list[Process]]:
    """Two processes on one PostgreSQL that count calls in one Redis."""
    redis = Redis(tmp_path).start()
    replicas = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        replica = Process(tmp_path / name)
        replica.environment |= {
            "CONFIG_ROLLBACK_DATABASE_URL": database.url,
            "CONFIG_ROLLBACK_RATE_LIMIT_STORE": redis.url,
        }
        replicas.append(replica)
    # At once: both find the schema missing.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda replica: replica.start(), replicas))
    yield replicas
    for replica in replicas:
        if replica.process is not None:
            replica.process.kill()
            replica.process.wait()
    redis.stop()


def call(replica: Process, method: str, path: str, subject: str = "ann", **arguments: Any) -> Any:
    token = mint_access_token(SECRET, subject=subject, role="ops")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": uuid.uuid4().hex}
    headers |= arguments.pop("headers", {})
    return requests.request(method, replica.url + path, headers=headers, timeout=40, **arguments)


def waits(replica: Process, polls: int) -> bool:
    return f"config_long_polls {polls}.0" in requests.get(f"{replica.url}/metrics", timeout=10).text


def test_two_processes_act_as_one(processes: list[Process]) -> None:
    for temperature in (0.1, 0.2):
        body = {"config": CONFIG | {"temperature": temperature}}
        assert call(processes[0], "POST", "/v1/ops/personas/p/versions", json=body).status_code == 201
    service = {"Authorization": f"Bearer {SERVICE_TOKEN}"}
    received: list[int] = []

    def follow(replica: Process) -> None:
        known = tag(2, 2, temperature=0.2)
        url = f"{replica.url}/v1/personas/p/config?wait=30"
        answer = requests.get(url, headers=service | {"If-None-Match": known}, timeout=40)
        received.append(answer.json()["data"]["version"])

    followers = [threading.Thread(target=follow, args=(replica,)) for replica in processes * 5]
    for follower in followers:
        follower.start()
    for replica in processes:
        wait_until(partial(waits, replica, 5))

    def roll_back(number: int) -> int:
        arguments = {"json": {"expected_version": 2}, "headers": {"Idempotency-Key": f"k{number}"}}
        path = "/v1/ops/personas/p/rollback"
        return int(call(processes[number % 2], "POST", path, f"user{number}", **arguments).status_code)

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(roll_back, range(16))) == [200] + [409] * 15
    for follower in followers:
        follower.join(40)
    assert received == [1] * 10
