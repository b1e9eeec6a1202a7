"""Delivery of configurations: tags, long polls, and who serves what."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from config_rollback.personas.persona_config import canonical_json, content_hash, validate_config
from config_rollback.web.api import quick_configs
from exporter.http import connection as http_connection
from tests.config_rollback.running import CONFIG, SERVICE_TOKEN, Service
from tests.config_rollback.web.test_api_ops import error


def tag(version: int, activation: int, **changes: Any) -> str:
    """The tag of `CONFIG` with changes, activated so."""
    digest = content_hash(canonical_json(validate_config(CONFIG | changes)))
    return f'"{version}-{activation}-{digest[:8]}"'


TAG = tag(1, 1)


def metric(service: Service, line: str) -> bool:
    return line in service.request("GET", "/metrics", token=None).text


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_active_configuration_with_its_tag(service: Service) -> None:
    service.publish()
    answer = service.config()
    assert answer.status_code == 200
    assert answer.headers["ETag"] == TAG
    assert answer.headers["Cache-Control"] == "no-cache"
    body = answer.json()
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert set(body["data"]) == {"persona", "version", "content_hash", "config", "activated_at"}
    assert body["data"]["config"] == CONFIG
    assert body["data"]["version"] == 1


@pytest.mark.parametrize("given", [TAG, f"W/{TAG}", f'"0-0", {TAG}', "*"])
def test_a_known_tag_is_not_sent_again(service: Service, given: str) -> None:
    service.publish()
    answer = service.config(**{"If-None-Match": given})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == TAG


def test_every_activation_has_a_tag_of_its_own(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    service.roll_back(expected_version=2)
    answer = service.config(**{"If-None-Match": TAG})
    assert (answer.status_code, answer.headers["ETag"]) == (200, tag(1, 3))


def poll(
    service: Service, pool: ThreadPoolExecutor, persona: str, known: str, count: int = 1
) -> list[Future[Any]]:
    """Opens long polls; returns when the service holds them all."""
    polls = [
        pool.submit(service.config, persona, "?wait=30", **{"If-None-Match": known}) for _ in range(count)
    ]
    wait_until(lambda: metric(service, f"config_long_polls {count}.0"))
    return polls


def test_a_rollback_answers_every_long_poll_at_once(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    with ThreadPoolExecutor(40) as pool:
        polls = poll(service, pool, "concierge", tag(2, 2, temperature=1), 40)
        assert service.roll_back(expected_version=2).status_code == 200
        assert {answer.result(10).json()["data"]["version"] for answer in polls} == {1}
    assert metric(service, "config_long_polls 0.0")


def test_61_a_poll_too_many_is_refused_and_people_are_not(start: Callable[..., Service]) -> None:
    service = start(max_connections=8)
    service.publish()
    service.publish(temperature=1)
    known = tag(2, 2, temperature=1)
    with ThreadPoolExecutor(6) as pool:
        polls = poll(service, pool, "concierge", known, 6)
        refused = service.config("concierge", "?wait=30", **{"If-None-Match": known})
        assert error(refused) == (429, "too_many_polls")
        assert refused.headers["Retry-After"] == "1"
        assert service.config("concierge", **{"If-None-Match": known}).status_code == 304
        assert service.roll_back(expected_version=2).status_code == 200
        assert {answer.result(10).json()["data"]["version"] for answer in polls} == {1}
    assert metric(service, 'config_requests_refused_total{code="too_many_polls"} 1.0')


def test_61_a_poll_ends_with_its_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HALF_CLOSED_SECONDS", 0.2)
    service.publish()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/v1/personas/concierge/config?wait=60", headers=TOKEN | {"If-None-Match": TAG})
    wait_until(lambda: metric(service, "config_long_polls 1.0"))
    connection.close()
    wait_until(lambda: metric(service, "config_long_polls 0.0"))


def test_a_change_of_another_persona_wakes_nobody(service: Service) -> None:
    service.publish("concierge")
    service.publish("coach")
    with ThreadPoolExecutor(1) as pool:
        (waiting,) = poll(service, pool, "concierge", TAG)
        service.publish("coach", temperature=1)
        assert metric(service, "config_long_polls 1.0")
        service.publish("concierge", temperature=1)
        assert waiting.result(10).json()["data"]["version"] == 2


def test_a_persona_may_be_waited_for_before_it_exists(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.config, "new", "?wait=30")
        wait_until(lambda: metric(service, "config_long_polls 1.0"))
        service.publish("new")
        assert waiting.result(10).json()["data"]["version"] == 1


def test_a_wait_without_a_change_ends(service: Service) -> None:
    service.publish()
    assert service.config("concierge", "?wait=1", **{"If-None-Match": TAG}).status_code == 304
    assert error(service.config("nobody", "?wait=1")) == (404, "not_found")


def test_a_change_made_by_another_process_is_noticed(service: Service, start: Callable[..., Service]) -> None:
    other = start()
    service.publish()
    with ThreadPoolExecutor(1) as pool:
        wait_until(lambda: other.config().status_code == 200)
        (waiting,) = poll(other, pool, "concierge", TAG)
        service.publish(temperature=1)
        assert waiting.result(10).json()["data"]["version"] == 2


def test_a_defect_does_not_end_the_watch(
    service: Service, start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = start()
    delivery = other.app.state.dependencies.delivery
    failed = threading.Event()

    def broken(known: object) -> None:
        failed.set()
        raise ZeroDivisionError

    with monkeypatch.context() as defect:
        defect.setattr(delivery, "_load", broken)
        service.publish()
        assert failed.wait(10)
    wait_until(lambda: other.config().status_code == 200)


@pytest.mark.parametrize(
    "query", ["?wait=61", "?wait=-1", "?wait=x", "?wait=1.5", "?serving=x&client=c", "?x=1"]
)
def test_a_wrong_query_is_refused(quiet_service: Service, query: str) -> None:
    assert error(quiet_service.config("concierge", query)) == (422, "invalid_request")


def raw_get(service: Service, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the path is sent as it is, where `requests` would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


TOKEN = {"Authorization": f"Bearer {SERVICE_TOKEN}"}
WAYS = [
    ("", TOKEN),
    ("?wait=20&client=a&serving=1", TOKEN),
    ("?wait=0", TOKEN | {"If-None-Match": TAG}),
    ("?wait=0", TOKEN | {"If-None-Match": "*"}),
    ("?wait=0", TOKEN | {"If-None-Match": '"1-9-00000000"'}),
    ("", {"authorization": f"bEARER  {SERVICE_TOKEN} "}),
    ("?wait=61", TOKEN),
    ("?client=%00", TOKEN),
    ("?client=a&client=b", TOKEN),
    ("", {}),
    ("", {"Authorization": "Bearer wrong"}),
    ("", {"Authorization": f"Basic {SERVICE_TOKEN}"}),
    ("", TOKEN | {"Content-Length": "0"}),
]


def test_the_quick_way_answers_as_the_long_way_does(service: Service) -> None:
    service.publish()
    for query, headers in WAYS:
        both = [
            raw_get(service, f"/v1/personas/{spelling}/config{query}", headers | {"X-Request-ID": "r"})
            for spelling in ("concierge", "%63oncierge")
        ]
        for answer in both:
            answer[1].pop("date", None)
        assert both[0] == both[1], (query, headers)


def test_the_usual_fetch_goes_the_quick_way(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.publish()
    monkeypatch.setattr(service.app.state.dependencies.delivery, "wait_for_change", None)
    assert service.config("concierge", "?wait=20&client=a&serving=1").status_code == 200
    assert (
        service.config("concierge", "?wait=0&client=a&serving=1", **{"If-None-Match": TAG}).status_code == 304
    )
    assert metric(service, 'config_clients{config_version="1",persona="concierge"} 1.0')
    assert raw_get(service, "/v1/personas/%63oncierge/config", TOKEN)[0] == 500
    service.publish(temperature=1)
    assert service.config("concierge", "?wait=20").json()["data"]["version"] == 2


def test_a_defect_of_the_quick_way_keeps_nobody_from_the_configuration(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(quick_configs, "envelope", fail)
    service.publish()
    assert service.config().json()["data"]["version"] == 1
    assert "quick_config_failed" in caplog.text


def test_the_service_counts_who_serves_what(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    for client, version in (("a", 1), ("b", 1), ("c", 2), ("a", 2)):
        service.config("concierge", f"?client={client}&serving={version}")
    assert metric(service, 'config_clients{config_version="1",persona="concierge"} 1.0')
    assert metric(service, 'config_clients{config_version="2",persona="concierge"} 2.0')
