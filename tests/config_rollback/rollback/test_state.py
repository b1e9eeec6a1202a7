"""Security cases 29 to 35, 45 and 46: concurrency, retries, targets, and a Prometheus that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from config_rollback.evidence import kpis
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.documents import Documents


def test_29_a_stale_version_changes_nothing(drifted: Service) -> None:
    answer = drifted.roll_back(expected_version=1)
    assert error(answer) == (409, "config_changed_since_alert")
    assert answer.json()["error"]["details"] == {"expected_version": 1, "active_version": 2}
    assert drifted.active_version() == 2
    row = drifted.audit()[-1]
    assert (row["status"], row["error_code"], row["from_version"]) == (
        "failed",
        "config_changed_since_alert",
        1,
    )


def test_29_a_second_click_on_the_same_link_changes_nothing(drifted: Service) -> None:
    assert drifted.roll_back(expected_version=2).status_code == 200
    assert error(drifted.roll_back(expected_version=2)) == (409, "config_changed_since_alert")
    assert drifted.active_version() == 1


@pytest.mark.usefixtures("patient_writers")
def test_30_of_64_parallel_rollbacks_one_wins(drifted: Service) -> None:
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: drifted.roll_back(expected_version=2), range(64)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] + [409] * 63
    assert drifted.active_version() == 1
    rows = drifted.audit()[2:]
    assert sorted(row["status"] for row in rows) == ["failed"] * 63 + ["succeeded"]
    assert drifted.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"] is True


def test_31_a_retry_gets_the_same_answer_and_no_second_row(drifted: Service) -> None:
    first = drifted.roll_back(key="k", expected_version=2, reason="r")
    drifted.clock.move(hours=1)
    again = drifted.roll_back(key="k", expected_version=2, reason="r")
    assert again.status_code == 200
    assert again.json()["data"] == first.json()["data"]
    assert len(drifted.audit()) == 3
    assert 'config_rollbacks_total{status="succeeded"} 1.0' in drifted.request("GET", "/metrics").text


def test_31_a_retry_of_a_refusal_is_refused_alike(drifted: Service) -> None:
    first = drifted.roll_back(key="k", expected_version=1)
    again = drifted.roll_back(key="k", expected_version=1)
    assert again.json()["error"] == first.json()["error"]
    assert len(drifted.audit()) == 3


def test_32_a_key_is_for_one_request(drifted: Service) -> None:
    drifted.roll_back(key="k", expected_version=2)
    answer = drifted.roll_back(key="k", expected_version=2, reason="another")
    assert error(answer) == (422, "idempotency_key_reused")
    assert drifted.audit()[-1]["error_code"] == "idempotency_key_reused"


def test_33_a_second_request_while_the_first_runs_is_told_so(
    drifted: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    store = drifted.app.state.dependencies.store
    original = store.write

    def slow() -> object:
        inside.set()
        assert go_on.wait(10)
        return original()

    monkeypatch.setattr(store, "write", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(drifted.roll_back, key="k", expected_version=2)
        assert inside.wait(10)
        second = drifted.roll_back(key="k", expected_version=2)
        go_on.set()
        assert first.result().status_code == 200
    assert error(second) == (409, "request_in_progress")
    assert drifted.active_version() == 1


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, (400, "idempotency_key_missing")), ("x" * 256, (422, "invalid_request"))],
    ids=["34 missing", "too long"],
)
def test_34_a_rollback_needs_a_key(drifted: Service, key: str | None, expected: tuple[int, str]) -> None:
    assert error(drifted.roll_back(key=key, expected_version=2)) == expected
    assert drifted.active_version() == 2


def test_35_keys_of_two_actors_are_independent(drifted: Service) -> None:
    assert drifted.roll_back(key="k", expected_version=2).status_code == 200
    bob = drifted.token(subject="bob")
    answer = drifted.roll_back(key="k", expected_version=2, token=bob)
    assert error(answer) == (409, "config_changed_since_alert")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (7, (404, "target_not_found")),
        (2, (409, "nothing_to_rollback")),
    ],
    ids=["missing", "the active one"],
)
def test_45_a_target_must_exist_and_differ(drifted: Service, target: int, expected: tuple[int, str]) -> None:
    assert error(drifted.roll_back(expected_version=2, to_version=target)) == expected
    assert drifted.active_version() == 2
    assert drifted.audit()[-1]["error_code"] == expected[1]


def test_45_a_first_version_has_nothing_to_go_back_to(service: Service) -> None:
    service.publish()
    assert error(service.roll_back(expected_version=1)) == (409, "nothing_to_rollback")


def test_45_a_persona_that_nobody_published_is_not_found(service: Service) -> None:
    assert error(service.roll_back("nobody", expected_version=1)) == (404, "not_found")
    assert service.audit()[-1]["error_code"] == "not_found"


def test_46_a_rollback_needs_no_prometheus(start: Callable[..., Service]) -> None:
    service = start(prometheus_url="http://127.0.0.1:1")
    service.publish()
    service.publish(temperature=1)
    kpis = service.request("GET", "/v1/ops/monitoring/conversation-kpis?window=1h")
    assert error(kpis) == (503, "monitoring_unavailable")
    assert service.roll_back(expected_version=2).status_code == 200


def test_46_a_prometheus_that_hangs_holds_up_nobody(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/v1/ops/monitoring/conversation-kpis?window=1h"
    monkeypatch.setattr(kpis, "TOTAL_SECONDS", 100.0)
    with Documents() as prometheus, ThreadPoolExecutor(60) as pool:
        prometheus.on_post = lambda *_: (503, b"")
        prometheus.answers.clear()
        service = start(prometheus_url=prometheus.url)
        service.publish()
        service.publish(temperature=1)
        asked = [pool.submit(service.request, "GET", path) for _ in range(60)]
        wait_until(lambda: len(prometheus.posted) == kpis.MAX_CONCURRENT)
        assert service.roll_back(expected_version=2).status_code == 200
        monkeypatch.setattr(kpis, "TOTAL_SECONDS", 0.2)
        late = service.request("GET", path)
        assert not any(question.done() for question in asked), "it waited for Prometheus"
        prometheus.answers.set()
        assert {error(question.result()) for question in asked} == {(503, "monitoring_unavailable")}
    assert error(late) == (503, "monitoring_unavailable")
