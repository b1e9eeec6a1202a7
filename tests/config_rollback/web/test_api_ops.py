"""The shapes of `/v1/ops/…`."""

from __future__ import annotations

import gzip
import html
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from config_rollback.personas import persona_config
from config_rollback.visible import visible
from tests.config_rollback.running import CONFIG, JSON_TYPE, Service, fields


def error(answer: Any) -> tuple[int, str]:
    """Status and code; every error carries its request id twice."""
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return answer.status_code, body["error"]["code"]


def test_a_publication_is_the_next_version_and_active(service: Service) -> None:
    answer = service.request(
        "POST", "/v1/ops/personas/concierge/versions", json={"config": CONFIG, "note": "first"}
    )
    assert answer.status_code == 201
    data = answer.json()["data"]
    assert data["persona"] == "concierge"
    assert (data["version"], data["from_version"], data["audit_id"]) == (1, None, 1)
    assert service.publish(temperature=0.9) == 2
    assert service.request("GET", "/v1/ops/personas").json()["data"] == [
        {
            "persona": "concierge",
            "active_version": 2,
            "action": "publish",
            "from_version": 1,
            "activated_at": "2026-03-01T12:00:00.000000Z",
            "activated_by": "ann",
            "audit_id": 2,
            "rollback_to": 1,
        }
    ]


def test_versions_are_listed_newest_first(service: Service) -> None:
    service.publish(note="first")
    service.publish(note="second", temperature=1)
    rows = service.request("GET", "/v1/ops/personas/concierge/versions").json()["data"]
    assert [(row["version"], row["note"], row["active"]) for row in rows] == [
        (2, "second", True),
        (1, "first", False),
    ]
    assert set(rows[0]) == {"version", "content_hash", "created_at", "created_by", "note", "active"}
    assert re.fullmatch("[0-9a-f]{64}", rows[0]["content_hash"])


def test_one_version_carries_its_configuration(service: Service) -> None:
    service.publish()
    data = service.request("GET", "/v1/ops/personas/concierge/versions/1").json()["data"]
    assert data["config"] == CONFIG
    assert data["active"] is True


def test_equal_configurations_have_equal_hashes(service: Service) -> None:
    service.publish()
    service.request(
        "POST", "/v1/ops/personas/concierge/versions", json={"config": dict(reversed(CONFIG.items()))}
    )
    rows = service.request("GET", "/v1/ops/personas/concierge/versions").json()["data"]
    assert rows[0]["content_hash"] == rows[1]["content_hash"]


def test_a_diff_names_the_fields_that_differ(service: Service) -> None:
    service.publish()
    service.publish(allowed_topics=["orders"])
    answer = service.request("GET", "/v1/ops/personas/concierge/diff?from=1&to=2")
    assert answer.json()["data"] == {
        "persona": "concierge",
        "from": 1,
        "to": 2,
        "changes": [
            {
                "field": "allowed_topics",
                "before": ["orders", "returns"],
                "after": ["orders"],
                "kind": "changed",
            }
        ],
    }


def test_a_rollback_restores_the_version_before(service: Service) -> None:
    service.publish()
    service.publish(temperature=2)
    service.clock.move(minutes=5)
    answer = service.roll_back(expected_version=2, reason="too wild", alert="OutOfScopeDrift")
    assert answer.status_code == 200
    assert answer.json() == {
        "data": {
            "persona": "concierge",
            "from_version": 2,
            "to_version": 1,
            "activation_id": 3,
            "audit_id": 3,
            "activated_at": "2026-03-01T12:05:00.000000Z",
        },
        "request_id": answer.headers["X-Request-ID"],
    }
    assert service.active_version() == 1


def test_audit_rows_tell_who_did_what_and_why(service: Service) -> None:
    service.publish()
    service.publish(temperature=2)
    answer = service.roll_back(expected_version=2, reason="too wild", alert="OutOfScopeDrift")
    row = service.audit()[-1]
    assert re.fullmatch("2:[0-9a-f]{64}", row.pop("hash"))
    assert row == {
        "audit_id": 3,
        "at": "2026-03-01T12:00:00.000000Z",
        "request_id": answer.json()["request_id"],
        "actor": "ann",
        "role": "ops",
        "action": "rollback",
        "persona": "concierge",
        "from_version": 2,
        "to_version": 1,
        "status": "succeeded",
        "error_code": None,
        "reason": "too wild",
        "alert": "OutOfScopeDrift",
        "content_hash": service.version(1)["content_hash"],
        "attempts": 1,
        "issuer": "driftback",
    }


def test_the_audit_is_read_in_pages(service: Service) -> None:
    for number in range(5):
        service.publish(temperature=number / 10)
    seen, cursor = [], None
    while True:
        query = f"&cursor={cursor}" if cursor else ""
        body = service.request("GET", f"/v1/ops/audit?limit=2{query}").json()
        seen += [row["audit_id"] for row in body["data"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1]


def test_the_audit_is_filtered_by_persona_and_actor(service: Service) -> None:
    service.publish("coach")
    service.publish("concierge")
    service.request("GET", "/v1/ops/personas", token=service.token("support", "bob"))
    coach = service.request("GET", "/v1/ops/audit?persona=coach").json()["data"]
    bob = service.request("GET", "/v1/ops/audit?actor=bob").json()["data"]
    assert [row["audit_id"] for row in coach] == [1]
    assert [row["audit_id"] for row in bob] == [3]


def test_the_chain_verifies_and_contains_the_head_of_an_earlier_log_line(service: Service) -> None:
    service.publish()
    head = service.request("GET", "/v1/ops/audit/verify").json()["data"]["head"]
    service.publish(temperature=1)
    path = f"/v1/ops/audit/verify?head={head['audit_id']}:{head['hash']}"
    data = service.request("GET", path).json()["data"]
    assert (data["valid"], data["rows"]) == (True, 2)
    forged = service.request("GET", "/v1/ops/audit/verify?head=1:1:0000").json()["data"]
    assert (forged["valid"], forged["broken_at"]) == (False, 1)


@pytest.mark.parametrize(
    "name", ["two words", "a/b", "a%2Fb", "q\"uo'te", "R&D <b>", "100%", "консьерж", "名前", "a+b?c#d", "..x"]
)
def test_odd_persona_names_work_everywhere(service: Service, name: str) -> None:
    service.publish(name)
    service.publish(name, temperature=1)
    assert service.config(name).json()["data"]["persona"] == name
    assert service.roll_back(name, expected_version=2).status_code == 200
    assert service.active_version(name) == 1


@pytest.mark.parametrize("name", ["❤\ufe0f", "क्\u200dष", "👩\u200d🚀"])
def test_a_persona_of_an_earlier_release_keeps_its_name(
    service: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Earlier releases took hidden characters in names: such a persona works, and a new one is refused."""
    path = quote(name, safe="")
    refused = service.request("POST", f"/v1/ops/personas/{path}/versions", json={"config": CONFIG})
    assert error(refused) == (422, "invalid_request")
    with monkeypatch.context() as earlier:
        earlier.setattr(persona_config, "check_new_persona", lambda _: None)
        service.publish(name)
    service.publish(name, temperature=1)
    assert service.config(name).json()["data"]["persona"] == name
    assert service.version(2, name)["active"]
    browser = service.browser()
    page = browser.get(f"/rollback/{path}?from=2").text
    assert f"<h1>Roll {html.escape(visible(name))} back to version 1?</h1>" in page
    assert browser.post(f"/rollback/{path}", fields(page)).status_code == 303
    assert service.roll_back(name, expected_version=1, to_version=2).status_code == 200
    assert service.active_version(name) == 2
    for shown in (browser.get("/"), browser.get("/audit", params={"persona": name})):
        assert html.escape(visible(name)) in shown.text
    browser.close()


@pytest.mark.parametrize("name", ["%20x", "%0A", "a%E2%80%8Bb", "a%FF"])
def test_a_name_that_is_none_is_refused_where_it_would_be_new(quiet_service: Service, name: str) -> None:
    path = f"/v1/ops/personas/{name}/versions"
    assert error(quiet_service.request("GET", path)) == (404, "not_found")
    assert error(quiet_service.request("POST", path, json={"config": CONFIG})) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/ops/personas/nobody/versions", (404, "not_found")),
        ("/v1/ops/personas/concierge/versions/7", (404, "not_found")),
        ("/v1/ops/personas/concierge/versions/x", (422, "invalid_request")),
        ("/v1/ops/personas/concierge/versions/0", (422, "invalid_request")),
        ("/v1/ops/personas/concierge/versions/%D9%A1", (422, "invalid_request")),
        ("/v1/ops/personas/concierge/diff?from=1", (422, "invalid_request")),
        ("/v1/ops/personas/concierge/diff?from=1&to=9", (404, "not_found")),
        ("/v1/ops/audit?limit=1001", (422, "invalid_request")),
        ("/v1/ops/audit?limit=-1", (422, "invalid_request")),
        ("/v1/ops/audit?persona=a&persona=b", (422, "invalid_request")),
        ("/v1/ops/audit?nonsense=1", (422, "invalid_request")),
        ("/v1/ops/audit?actor=%00", (422, "invalid_request")),
        ("/v1/ops/audit/verify?head=7", (422, "invalid_request")),
        ("/v1/ops/nothing", (404, "not_found")),
    ],
)
def test_what_is_not_there_or_not_valid_is_said(
    quiet_service: Service, path: str, expected: tuple[int, str]
) -> None:
    assert error(quiet_service.request("GET", path)) == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 2.1}, "config.temperature"),
        ({"temperature": True}, "config.temperature"),
        ({"timeout_ms": "8000"}, "config.timeout_ms"),
        ({"timeout_ms": 0}, "config.timeout_ms"),
        ({"surprise": 1}, "config.surprise"),
        ({"allowed_topics": [""]}, "config.allowed_topics.0"),
    ],
)
def test_a_wrong_configuration_is_refused_by_field(
    quiet_service: Service, change: dict[str, Any], field: str
) -> None:
    path = "/v1/ops/personas/concierge/versions"
    answer = quiet_service.request("POST", path, json={"config": CONFIG | change})
    assert error(answer) == (422, "invalid_request")
    assert [problem["field"] for problem in answer.json()["error"]["details"]["errors"]] == [field]
    assert len(quiet_service.audit()) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "invalid_json")),
        (b'{"expected_version": NaN}', (400, "invalid_json")),
        (b'{"reason": "\\ud800"}', (400, "invalid_json")),
        (b"[" * 3_000 + b"]" * 3_000, (400, "invalid_json")),
        (b"[" * 20_000 + b"]" * 20_000, (400, "invalid_json")),
        (b"\xff", (400, "invalid_json")),
        (b'{"expected_version": 1, "expected_version": 2}', (400, "invalid_json")),
        (b'{"expected_version": 1, "reason": "a\\u200bb"}', (422, "invalid_request")),
        (b'{"expected_version": 1, "alert": "a\\u202eb"}', (422, "invalid_request")),
        (b"[]", (422, "invalid_request")),
        (b"{}", (422, "invalid_request")),
        (b'{"expected_version": true}', (422, "invalid_request")),
        (b'{"expected_version": 1.0}', (422, "invalid_request")),
        (b'{"expected_version": 1, "surprise": 1}', (422, "invalid_request")),
        (b'{"expected_version": 1, "reason": "\\u0000"}', (422, "invalid_request")),
        (b'{"reason": "' + b"x" * 1_048_576 + b'"}', (413, "body_too_large")),
    ],
    ids=lambda value: str(value[:40]),
)
def test_bad_bodies_are_refused(quiet_service: Service, body: bytes, expected: tuple[int, str]) -> None:
    answer = quiet_service.request(
        "POST",
        "/v1/ops/personas/concierge/rollback",
        data=body,
        headers={**JSON_TYPE, "Idempotency-Key": "k"},
    )
    assert error(answer) == expected
    assert quiet_service.active_version() == 1
    assert len(quiet_service.audit()) == 1
    assert quiet_service.request("GET", "/metrics").status_code == 200


def test_a_chunked_body_over_the_limit_is_refused(quiet_service: Service) -> None:
    chunks = (b"x" * 65_536 for _ in range(32))
    path = "/v1/ops/personas/concierge/versions"
    answer = quiet_service.request("POST", path, data=chunks, headers=JSON_TYPE)
    assert error(answer) == (413, "body_too_large")


def test_a_body_of_another_kind_is_refused(quiet_service: Service) -> None:
    path = "/v1/ops/personas/concierge/versions"
    plain = quiet_service.request("POST", path, data=b"{}", headers={"Content-Type": "text/plain"})
    bomb = gzip.compress(b" " * 50_000_000, 1)
    packed = quiet_service.request("POST", path, data=bomb, headers={**JSON_TYPE, "Content-Encoding": "gzip"})
    assert error(plain) == (415, "unsupported_media_type")
    assert error(packed) == (415, "unsupported_encoding")
    assert len(quiet_service.audit()) == 1


def test_a_method_that_does_not_work_names_those_that_do(quiet_service: Service) -> None:
    answer = quiet_service.request("PUT", "/v1/ops/personas/concierge/versions")
    assert error(answer) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id.1_2", True), ("x" * 65, False), ("a b", False), ("", False)]
)
def test_a_request_id_of_the_caller_is_kept_if_well_formed(
    quiet_service: Service, given: str, kept: bool
) -> None:
    answer = quiet_service.request("GET", "/v1/ops/personas", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_an_unexpected_error_is_an_answer_too(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(service.app.state.dependencies.store, "read", broken)
    answer = service.request("GET", "/v1/ops/personas")
    assert error(answer) == (500, "internal_error")
    assert "secret detail" not in answer.text


def test_a_publication_can_insist_on_what_it_replaces(service: Service) -> None:
    path = "/v1/ops/personas/concierge/versions"
    first = service.request("POST", path, json={"config": CONFIG, "expected_version": 0})
    late = service.request("POST", path, json={"config": CONFIG, "expected_version": 0})
    assert first.status_code == 201
    assert error(late) == (409, "config_changed_since_alert")
    assert json.loads(late.text)["error"]["details"] == {"expected_version": 0, "active_version": 1}
    assert service.audit()[-1]["error_code"] == "config_changed_since_alert"
