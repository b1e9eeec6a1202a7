"""Security case 62: other services that hang keep no rollback waiting."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.registry import Collector
from pydantic import SecretStr

from config_rollback.auth import oidc
from config_rollback.evidence import kpis
from config_rollback.outgoing import calls
from config_rollback.outgoing import sessions as outgoing
from config_rollback.web.single_flight import MAX_WAITING
from exporter.http import connection as http_connection
from tests.config_rollback.auth.test_issuers import AUDIENCE, ISSUER, JWKS
from tests.config_rollback.auth.test_issuers import token as issued
from tests.config_rollback.auth.test_oidc import CLIENT, Provider, begin
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import Browser, Clock, Service, fields
from tests.config_rollback.web.test_api_ops import error
from tests.support.documents import Documents
from tests.support.redis import Redis

FLOOD = 45
"""More than the threads that a rollback needs (40, anyio's)."""
KPIS = "/v1/ops/monitoring/conversation-kpis?window=1h"


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


@pytest.fixture
def _endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits for another service waits longer than this test takes."""
    monkeypatch.setattr(calls, "DOCUMENT_SECONDS", 100.0)
    monkeypatch.setattr(oidc, "EXCHANGE_SECONDS", 100.0)
    monkeypatch.setattr(kpis, "TOTAL_SECONDS", 100.0)
    monkeypatch.setattr(outgoing, "FETCH_SECONDS", 100.0)


@pytest.fixture
def provider(clock: Clock) -> Iterator[Provider]:
    with Provider(clock) as provider:
        yield provider


@pytest.fixture
def issuer() -> Iterator[Documents]:
    with Documents(keys=JWKS) as issuer:
        yield issuer


@pytest.fixture
def prometheus() -> Iterator[Documents]:
    with Documents() as prometheus:
        prometheus.on_post = lambda *_: (503, b"")
        yield prometheus


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    redis = Redis(tmp_path).start()
    yield redis
    redis.stop()


@pytest.fixture
def service(
    start: Callable[..., Service],
    provider: Provider,
    issuer: Documents,
    prometheus: Documents,
    redis: Redis,
) -> Service:
    """A service with all of them, and a persona with four versions."""
    service = start(
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT,
        jwks_url=f"{issuer.url}/keys",
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        prometheus_url=prometheus.url,
        rate_limit_store=SecretStr(redis.url),
    )
    for temperature in (0.2, 0.4, 0.6, 0.8):
        service.publish(temperature=temperature)
    return service


@contextmanager
def asking(*floods: Callable[[], requests.Response]) -> Iterator[list[Future[requests.Response]]]:
    """Each of these is asked by many at once, meanwhile."""
    with ThreadPoolExecutor(FLOOD * len(floods)) as pool:
        yield [pool.submit(ask) for ask in floods for _ in range(FLOOD)]


@pytest.mark.usefixtures("_endless")
def test_62_a_login_provider_that_hangs_keeps_no_rollback_waiting(
    service: Service, provider: Provider
) -> None:
    provider.answers.clear()
    with asking(lambda: Browser(service).get("/auth/start")) as asked:
        wait_until(lambda: provider.fetched != [])
        assert service.roll_back(expected_version=4).status_code == 200
        assert not any(question.done() for question in asked)
        provider.answers.set()
        assert {question.result().status_code for question in asked} == {303}
    assert provider.fetched == ["/.well-known/openid-configuration"], "one asks for all"


@pytest.mark.usefixtures("_endless")
def test_62_a_rollback_waits_for_nobody_while_all_hang(
    service: Service, provider: Provider, issuer: Documents, prometheus: Documents, redis: Redis
) -> None:
    others = (provider, issuer, prometheus)
    assert service.request("GET", "/v1/ops/personas", token=issued()).status_code == 200
    visitor, browser = Browser(service), service.browser()
    back = provider.log_in(begin(visitor))
    form = fields(browser.get("/rollback/concierge?from=4").text)
    service.clock.move(minutes=9)  # the keys may be asked for again
    for other in others:
        other.answers.clear()
    redis.fail("hanging")
    with asking(
        lambda: visitor.get(back),
        lambda: service.request("GET", KPIS),
        lambda: service.request("GET", "/v1/ops/personas", token=issued(kid=uuid.uuid4().hex)),
    ) as asked:
        wait_until(lambda: len(issuer.fetched) == 2 and provider.posted != [] and len(prometheus.posted) > 1)
        assert browser.post("/rollback/concierge", form).status_code == 303
        assert service.roll_back(expected_version=3, token=issued()).status_code == 200
        assert service.roll_back(expected_version=2).status_code == 200
        assert not any(question.done() for question in asked)
        for other in others:
            other.answers.set()
    assert service.active_version() == 1
    visitor.close()
    browser.close()


def test_after_a_wait_in_vain_nobody_waits_again_for_a_while(
    service: Service, provider: Provider, prometheus: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "DOCUMENT_SECONDS", 0.1)
    monkeypatch.setattr(kpis, "TOTAL_SECONDS", 0.1)
    browser = Browser(service)
    ask: tuple[tuple[list[str], str, Callable[[], requests.Response]], ...] = (
        (prometheus.posted, "monitoring_unavailable", lambda: service.request("GET", KPIS)),
        (
            provider.fetched,
            "login_unavailable",
            lambda: browser.get("/auth/start", headers={"Accept": "application/json"}),
        ),
    )
    for other in (provider, prometheus):
        other.answers.clear()
    for questions, code, request in ask:
        assert [error(request()) for _ in range(20)] == [(503, code)] * 20
        assert len(questions) == 1
    browser.close()


def test_a_wait_for_a_thread_closes_the_way_to_nobody() -> None:
    answers = threading.Event()

    async def ask() -> str:
        one = calls.Calls(1)
        first = asyncio.create_task(one.run(lambda: answers.wait(60), 60))
        await asyncio.sleep(0)
        with pytest.raises(calls.NoThreadError):
            await one.run(lambda: "too late", 0.05)
        answers.set()
        await first
        return await one.run(lambda: "answered", 60)

    assert asyncio.run(ask()) == "answered"


def test_keys_that_are_too_old_are_looked_for_before_they_are_used(
    service: Service, issuer: Documents
) -> None:
    assert service.request("GET", "/v1/ops/personas", token=issued()).status_code == 200
    issuer.documents["/keys"] = b'{"keys": []}'
    service.clock.move(minutes=20)
    assert error(service.request("GET", "/v1/ops/personas", token=issued())) == (401, "token_invalid")


class Slow(Collector):
    """A metric that is not there until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Event()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self.begun += 1
        self.go_on.wait(100)
        return ()


@pytest.fixture
def slow(service: Service) -> Iterator[Slow]:
    """In the exposition of that service."""
    slow = Slow()
    service.app.state.dependencies.metrics.registry.register(slow)
    yield slow
    slow.go_on.set()


def test_62_scrapes_share_one_thread_and_one_too_many_is_refused_and_counted(
    service: Service, slow: Slow
) -> None:
    def answered() -> list[requests.Response]:
        return [question.result() for question in asked if question.done()]

    with asking(lambda: service.request("GET", "/metrics", token=None)) as asked:
        wait_until(lambda: len(answered()) == FLOOD - MAX_WAITING)
        assert service.roll_back(expected_version=4).status_code == 200
        assert service.request("GET", "/-/ready", token=None).status_code == 200
        refused = answered()
        slow.go_on.set()
    assert {error(answer) for answer in refused} == {(429, "too_many_requests")}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert len({question.result().text for question in asked if question.result().ok}) == 1
    assert slow.begun == 1
    text = service.request("GET", "/metrics", token=None).text
    assert f'config_requests_refused_total{{code="too_many_requests"}} {len(refused):.1f}' in text


def test_62_scrapes_that_nobody_waits_for_take_no_request_of_anybody(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "HALF_CLOSED_SECONDS", 0.2)
    service = start(max_connections=8)
    service.publish()
    slow = Slow()
    service.app.state.dependencies.metrics.registry.register(slow)
    try:
        for path in ("/metrics", "/metrics", "/-/ready") * 8:
            with socket.create_connection(("127.0.0.1", service.port), 30) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                wait_until(lambda: slow.begun > 0)
        wait_until(lambda: service.request("GET", "/v1/ops/personas").status_code == 200)
        assert service.request("GET", "/-/ready", token=None).status_code == 200
        assert slow.begun == 1
    finally:
        slow.go_on.set()
    assert service.request("GET", "/metrics", token=None).status_code == 200


def test_62_a_refusal_takes_no_thread(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    store, go_on, waiting = service.app.state.dependencies.store, threading.Event(), []
    read = store.read

    def hang() -> object:
        waiting.append(1)
        go_on.wait(100)
        return read()

    monkeypatch.setattr(store, "read", hang)
    with asking(lambda: service.request("GET", "/v1/ops/personas")) as asked:
        wait_until(lambda: len(waiting) == 40)
        for path, answer in {"/x": 404, "/v1/ops/personas": 401, "/static/style.css": 200}.items():
            assert service.request("GET", path, token=None).status_code == answer
        assert not any(question.done() for question in asked)
        go_on.set()
    assert {question.result().status_code for question in asked} == {200}


def test_62_a_made_up_cookie_asks_no_database(service: Service) -> None:
    service.database.execute("DROP TABLE sessions")
    for cookie in ("x" * 43, f"{'x' * 43}.{'0' * 64}", "ä"):
        answer = requests.get(
            service.url, headers={"Cookie": f"{service.cookie_name}={cookie}".encode()}, timeout=10
        )
        assert error(answer) == (401, "session_revoked")
