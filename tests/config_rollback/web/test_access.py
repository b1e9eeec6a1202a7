"""Security cases 14 to 27 at the level of HTTP: who may call the API, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.routing import Route

from tests.config_rollback.auth.test_tokens import INVALID
from tests.config_rollback.running import ALERTMANAGER_TOKEN, CONFIG, SERVICE_TOKEN, Browser, Service, fields
from tests.config_rollback.web.test_api_ops import error


def ops_routes(service: Service) -> list[tuple[str, str]]:
    """Every call of the ops API, from the application's own route table."""
    return [
        (method, route.path.replace("{persona}", "concierge").replace("{number}", "1"))
        for route in service.app.routes
        if isinstance(route, Route) and route.path.startswith("/v1/ops/")
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


def test_14_every_ops_call_needs_a_token(service: Service) -> None:
    assert len(ops_routes(service)) == 14
    for method, path in ops_routes(service):
        answer = service.request(method, path, token=None, json={})
        assert error(answer) == (401, "unauthenticated"), path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert service.audit() == []


def test_15_to_22_an_invalid_token_changes_nothing(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    before = service.database.content()
    for name, token in INVALID.items():
        assert error(service.roll_back(expected_version=2, token=token)) == (401, "token_invalid"), name
    assert service.database.content() == before


def test_an_expired_token_says_so(service: Service) -> None:
    token = service.token()
    service.clock.move(hours=2)
    assert error(service.request("GET", "/v1/ops/personas", token=token)) == (401, "token_expired")


def test_a_login_token_opens_no_api(service: Service) -> None:
    token = service.login_link().partition("token=")[2]
    answer = service.request("GET", "/v1/ops/personas", token=token)
    assert error(answer) == (401, "token_scope_mismatch")


@pytest.mark.parametrize("role", ["user", "support", "OPS", "ops ", "ops,user", "admin"])
def test_25_only_ops_may_act_and_the_attempt_is_audited(service: Service, role: str) -> None:
    service.publish()
    service.publish(temperature=1)
    answer = service.roll_back(expected_version=2, token=service.token(role, "bob"))
    assert error(answer) == (403, "forbidden")
    assert service.active_version() == 2
    row = service.audit()[-1]
    assert (row["actor"], row["role"], row["action"]) == ("bob", role, "rollback")
    assert (row["persona"], row["status"], row["error_code"]) == ("concierge", "failed", "forbidden")
    assert row["request_id"] == answer.json()["request_id"]


def test_25_every_ops_call_is_for_ops_only(service: Service) -> None:
    service.publish()
    token = service.token("support", "bob")
    for method, path in ops_routes(service):
        answer = service.request(method, path, token=token, json={"config": CONFIG})
        assert error(answer) == (403, "forbidden"), path
    refused = service.audit()[1:]
    actions = {"publish", "rollback", "accept_baseline", "shut_out", "let_in", "read"}
    assert {row["action"] for row in refused} == actions
    assert [row["actor"] for row in refused] == ["bob"] * 6, "of each kind the first; the others are counted"
    service.app.state.dependencies.refusals.settle()
    assert sum(row["attempts"] for row in service.audit()[1:]) == len(ops_routes(service))
    assert service.active_version() == 1


def test_26_a_header_is_no_identity(service: Service) -> None:
    for header in ("X-Forwarded-User", "X_Auth_User", "X-Remote-User", "Remote-User", "X-Role"):
        answer = service.request("GET", "/v1/ops/personas", token=None, headers={header: "ops"})
        assert error(answer) == (401, "unauthenticated"), header
    assert service.audit() == []


def test_a_cookie_is_no_identity_for_the_api(service: Service) -> None:
    browser = service.browser()
    answer = browser.get("/v1/ops/personas", headers={"Accept": "application/json"})
    assert error(answer) == (401, "unauthenticated")
    browser.close()


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("GET", "/v1/personas/concierge/config", ALERTMANAGER_TOKEN),
        ("POST", "/v1/alerts", SERVICE_TOKEN),
        ("GET", "/v1/ops/personas", SERVICE_TOKEN),
        ("GET", "/v1/personas/concierge/config", "wrong"),
    ],
)
def test_each_caller_has_tokens_of_its_own(service: Service, method: str, path: str, token: str) -> None:
    assert error(service.request(method, path, token=token, json={})) == (401, "token_invalid")


def test_an_ops_token_is_no_service_token(service: Service) -> None:
    answer = service.request("GET", "/v1/personas/concierge/config")
    assert error(answer) == (401, "token_invalid")


@pytest.mark.parametrize("setting", ["service_tokens", "alertmanager_tokens"])
def test_no_configured_tokens_means_no_access(start: Callable[..., Service], setting: str) -> None:
    service = start(**{setting: ()})
    path = {"service_tokens": "/v1/personas/x/config", "alertmanager_tokens": "/v1/alerts"}[setting]
    method = {"service_tokens": "GET", "alertmanager_tokens": "POST"}[setting]
    assert error(service.request(method, path, token="", json={})) == (401, "token_invalid")


def test_refusals_for_want_of_an_identity_are_counted(service: Service) -> None:
    service.request("GET", "/v1/ops/personas", token=None)
    service.request("GET", "/v1/ops/personas", token="wrong")
    text = service.request("GET", "/metrics", token=None).text
    assert 'config_authentication_failures_total{code="unauthenticated"} 1.0' in text
    assert 'config_authentication_failures_total{code="token_invalid"} 1.0' in text


def test_health_and_metrics_need_no_token_and_tell_no_secret(service: Service) -> None:
    service.publish()
    for path in ("/-/healthy", "/-/ready", "/metrics"):
        answer: Any = service.request("GET", path, token=None)
        assert answer.status_code == 200
        assert SERVICE_TOKEN not in answer.text


def test_a_request_that_is_not_valid_is_no_attempt(service: Service, browser: Browser) -> None:
    """As docs/operations.md and the page say: invalid requests cannot fill the audit."""
    service.publish()
    service.publish(temperature=1)
    form = fields(browser.get("/rollback/concierge?from=2").text.partition("<details>")[0])
    before = service.audit()
    path = "/v1/ops/personas/concierge/versions"
    assert error(service.request("POST", path, json={"config": {}})) == (422, "invalid_request")
    assert error(service.roll_back(key=None, expected_version=2)) == (400, "idempotency_key_missing")
    assert browser.post("/rollback/concierge", form | {"form_token": "another"}).status_code == 403
    assert error(service.roll_back(token="unknown", expected_version=2)) == (401, "token_invalid")
    assert service.audit() == before
    refused = {
        "config_changed_since_alert",
        "target_not_found",
        "nothing_to_rollback",
        "forbidden",
        "not_found",
    }
    service.roll_back(expected_version=1)
    service.roll_back(expected_version=2, to_version=9)
    service.roll_back(expected_version=2, to_version=2)
    service.roll_back(expected_version=2, token=service.token("user"))
    service.roll_back("nobody", expected_version=1)
    assert {row["error_code"] for row in service.audit()[len(before) :]} == refused
