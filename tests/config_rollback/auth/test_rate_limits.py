"""Security cases 55 and 56: floods, and the store that counts them."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import SecretStr

from config_rollback.auth import rate_limits
from config_rollback.auth.rate_limits import USER_SLOTS, RateLimits, _slot
from config_rollback.errors import RateLimitedError
from config_rollback.outgoing import calls
from config_rollback.rollback.attempts import Actor
from config_rollback.settings import Settings
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import SECRET, Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.redis import PASSWORD, Fault, Redis

PATH = "/v1/ops/personas"

Start = Callable[..., Service]


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    # One that is away refuses at once; one on a busy machine may be late.
    monkeypatch.setattr(rate_limits, "STORE_TIMEOUT_SECONDS", 10.0)
    redis = Redis(tmp_path).start()
    yield redis
    redis.stop()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> SecretStr:
    """Every store that calls can be counted in."""
    if request.param == "memory":
        return SecretStr("memory://")
    return SecretStr(request.getfixturevalue("redis").url)


def two_a_minute(store: SecretStr, folder: Path) -> Settings:
    """Settings that let a person make two calls a minute."""
    return Settings(
        database_url=SecretStr(f"sqlite:///{folder}/x.db"),
        jwt_secret=SecretStr(SECRET),
        rate_limit_store=store,
        rate_limit_user="2/minute",
    )


def answers(service: Service, count: int, subject: str = "ann", role: str = "ops") -> list[int]:
    token = service.token(role, subject)
    return [service.request("GET", PATH, token=token).status_code for _ in range(count)]


def refused(service: Service, subject: str, role: str = "ops") -> dict[str, Any]:
    """The details of a 429."""
    answer = service.request("GET", PATH, token=service.token(role, subject))
    assert error(answer) == (429, "rate_limited")
    details: dict[str, Any] = answer.json()["error"]["details"]
    assert answer.headers["Retry-After"] == str(details["retry_after"])
    assert 1 <= details["retry_after"] <= 60
    return details


def test_55_a_flood_by_one_user_leaves_others_alone(start: Start, store: SecretStr) -> None:
    service = start(rate_limit_user="5/minute", rate_limit_store=store)
    assert answers(service, 5) == [200] * 5
    assert refused(service, "ann")["limit"] == "user"
    assert answers(service, 5, "bob") == [200] * 5


def test_a_flood_by_a_role_leaves_ops_alone(start: Start, store: SecretStr) -> None:
    service = start(rate_limit_role="3/minute", rate_limit_store=store)
    assert [status for n in range(3) for status in answers(service, 1, f"u{n}", "user")] == [403] * 3
    assert refused(service, "u4", "user")["limit"] == "role"
    assert answers(service, 1) == [200]
    # Made-up roles share one limit.
    assert [status for n in range(3) for status in answers(service, 1, "x", f"role{n}")] == [403] * 3
    assert refused(service, "x", "role4")["limit"] == "role"


def test_a_person_who_is_shut_out_takes_nothing_of_the_roles_share(start: Start) -> None:
    service = start(rate_limit_role="4/minute")
    body = {"subject": "bob", "issuer": "driftback"}
    assert service.request("POST", "/v1/ops/access/revoke", json=body).status_code == 200
    assert answers(service, 4, "bob") == [403] * 4
    assert refused(service, "bob")["limit"] == "role"
    assert answers(service, 3) == [200] * 3


def test_what_the_users_limit_refuses_uses_nothing_of_the_others_share(start: Start) -> None:
    service = start(rate_limit_user="2/minute", rate_limit_role="3/minute", rate_limit_global="4/minute")
    assert answers(service, 50) == [200, 200] + [429] * 48
    assert answers(service, 1, "bob") == [200]
    assert refused(service, "carl")["limit"] == "role"
    assert answers(service, 1, "dora", "user") == [403]
    assert refused(service, "emil", "user")["limit"] == "global"


def test_refused_calls_change_nothing_and_fill_no_audit(start: Start) -> None:
    service = start(rate_limit_user="2/minute")
    service.publish()
    service.publish()
    before = service.database.content()
    assert error(service.roll_back(expected_version=2)) == (429, "rate_limited")
    assert service.database.content() == before


def test_pages_are_limited_too(start: Start) -> None:
    service = start(rate_limit_user="3/minute")
    browser = service.browser()
    assert [browser.get("/").status_code for _ in range(4)] == [200, 200, 200, 429]
    page = browser.get("/")
    assert int(page.headers["Retry-After"]) >= 1
    assert 'data-code="rate_limited"' in page.text
    browser.close()


def test_a_result_counts_once(start: Start) -> None:
    service = start(rate_limit_user="5/minute")
    service.publish()
    service.publish()
    assert service.roll_back(expected_version=2).status_code == 200
    browser = service.browser()
    path = "/rollback/concierge?result=3"
    assert [browser.get(path).status_code for _ in range(3)] == [200, 200, 429]
    browser.close()


def test_delivery_is_never_limited(start: Start) -> None:
    service = start(rate_limit_user="1/minute", rate_limit_role="1/minute", rate_limit_global="1/minute")
    service.publish()
    assert [service.config().status_code for _ in range(20)] == [200] * 20


def store_is_up(service: Service) -> bool:
    return "config_rate_limit_store_up 1.0" in service.request("GET", "/metrics", token=None).text


@pytest.mark.parametrize("fault", ["away", "hanging", "full"])
def test_56_with_the_store_down_each_replica_counts_for_itself(
    start: Start,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(rate_limits, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(calls, "COOLDOWN_SECONDS", 0.1)
    service = start(rate_limit_store=SecretStr(redis.url), rate_limit_user="6/minute")
    service.publish()
    service.publish()
    assert store_is_up(service)
    if fault == "hanging":
        # A short wait once a call can only find it hanging: on a busy machine Redis may be late.
        monkeypatch.setattr(rate_limits, "STORE_TIMEOUT_SECONDS", 0.2)
    redis.fail(fault)
    assert service.roll_back(expected_version=2).status_code == 200
    assert not store_is_up(service)
    assert answers(service, 10) == [200] * 5 + [429] * 5, "its own limit holds"
    assert service.config().status_code == 200
    monkeypatch.setattr(rate_limits, "STORE_TIMEOUT_SECONDS", 10.0)
    redis.recover(fault)
    wait_until(lambda: store_is_up(service))
    assert answers(service, 1, "bob") == [200]
    assert store_is_up(service)
    told = [record.message for record in caplog.records if "rate_limit_store" in record.message]
    assert len(told) == 2, "once per change"
    gc.collect()
    assert "never retrieved" not in caplog.text, "a call that ended when nobody waited any more"
    assert PASSWORD not in caplog.text


def test_a_clock_that_is_set_back_keeps_nobody_out(
    store: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = two_a_minute(store, tmp_path)
    real, ahead = time.time, 3600.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    ann = Actor("ann", "ops", "driftback")

    async def run() -> None:
        nonlocal ahead
        limits = RateLimits(settings)
        for jump in (0.0, -3600.0, +7200.0):
            ahead += jump
            for _ in range(2):
                await limits.check_user(ann)
            with pytest.raises(RateLimitedError):
                await limits.check_user(ann)
        assert limits.store_up

    asyncio.run(run())


def test_a_store_that_was_away_when_the_clock_was_set_back_forgets_later(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "RETRY_SECONDS", 0.1)
    settings = two_a_minute(SecretStr(redis.url), tmp_path)
    real, ahead = time.time, 3600.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    ann = Actor("ann", "ops", "driftback")

    async def run() -> None:
        nonlocal ahead
        limits = RateLimits(settings)
        for _ in range(2):
            await limits.check_user(ann)
        redis.allow_scripts(False)
        ahead = 0.0
        await limits.check_user(ann)
        assert limits._looking is not None, "the store is lost"
        redis.allow_scripts(True)
        await asyncio.wait_for(limits._looking, 30)
        for _ in range(2):
            await limits.check_user(ann)
        with pytest.raises(RateLimitedError):
            await limits.check_user(ann)
        assert limits.store_up

    asyncio.run(run())


def test_whatever_the_store_answers_people_are_let_in(start: Start, tmp_path: Path) -> None:
    def answer(server: socket.socket) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                client = server.accept()[0]
                client.sendall(b"*1\r\n" * 100_000)
                kept.append(client)

    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=answer, args=(server,), daemon=True).start()
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        service = start(rate_limit_store=SecretStr(url))
        assert answers(service, 3) == [200] * 3
        assert not store_is_up(service)
        service.stop()
        server.shutdown(socket.SHUT_RDWR)
    for client in kept:
        client.close()


def test_replicas_count_together_in_redis(start: Start, redis: Redis) -> None:
    replicas = [start(rate_limit_user="5/minute", rate_limit_store=SecretStr(redis.url)) for _ in range(2)]
    statuses = [status for _ in range(5) for replica in replicas for status in answers(replica, 1)]
    assert statuses == [200] * 5 + [429] * 5


def test_made_up_users_share_a_bounded_number_of_keys() -> None:
    slots = {_slot(Actor(f"user {n}", "ops", "driftback")) for n in range(3 * USER_SLOTS)}
    assert len(slots) <= USER_SLOTS
    assert _slot(Actor("ann", "ops", "driftback")) != _slot(Actor("bob", "ops", "driftback"))


def test_the_same_name_of_two_issuers_has_two_limits() -> None:
    issuers = ("driftback", "https://issuer.example/")
    assert len({_slot(Actor("ann", "ops", issuer)) for issuer in issuers}) == 2
