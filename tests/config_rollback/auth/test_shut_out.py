"""Security case 73: one person is shut out at once, and what a browser had ends with a new login."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from config_rollback.auth import shut_out
from tests.config_rollback.auth.test_oidc import CLIENT, Provider, begin
from tests.config_rollback.running import Browser, Clock, Service
from tests.config_rollback.test_cli import run
from tests.config_rollback.web.test_api_ops import error

PATH = "/v1/ops/personas"


def decide(service: Service, what: str, subject: str = "bob", **body: Any) -> requests.Response:
    return service.request(
        "POST",
        f"/v1/ops/access/{what}",
        json={"subject": subject, "issuer": "driftback"} | body,
        headers={"Idempotency-Key": body.pop("key", None) or uuid.uuid4().hex},
    )


def test_73_a_person_is_shut_out_of_every_replica_at_once_and_nobody_else_is(
    drifted: Service, start: Callable[..., Service]
) -> None:
    replica = start(external_url=drifted.url) if drifted.database.kind == "postgresql" else drifted
    token, others = drifted.token(subject="bob"), drifted.token(subject="carl")
    browser, other = drifted.browser(subject="bob"), drifted.browser(subject="carl")
    assert browser.get("/").status_code == other.get("/").status_code == 200
    answer = decide(drifted, "revoke", reason="left the company")
    assert answer.status_code == 200
    assert answer.json()["data"]["shut_out"] is True
    for service in (drifted, replica):
        assert error(service.request("GET", PATH, token=token)) == (403, "shut_out")
        assert error(service.roll_back(expected_version=2, token=token)) == (403, "shut_out")
        assert service.request("GET", PATH, token=others).status_code == 200
    assert 'data-code="session_revoked"' in browser.get("/").text
    assert other.get("/").status_code == 200
    again = drifted.browser(subject="bob")
    assert 'data-code="shut_out"' in again.get("/").text
    assert drifted.active_version() == 2
    rows = [row for row in drifted.audit() if row["action"] == "shut_out"]
    assert [(row["actor"], row["reason"]) for row in rows] == [("ann", "bob of driftback: left the company")]
    assert "shut_out" in [row["error_code"] for row in drifted.audit()]
    (person,) = drifted.request("GET", "/v1/ops/access").json()["data"]
    assert (person["issuer"], person["subject"]) == ("driftback", "bob")
    for open_one in (browser, other, again):
        open_one.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ops/personas/concierge/rollback", {"expected_version": 2}),
        ("/v1/ops/access/allow", {"subject": "bob", "issuer": "driftback"}),
    ],
    ids=["a rollback", "letting oneself in again"],
)
def test_73_a_request_whose_body_comes_after_its_sender_was_shut_out_does_nothing(
    drifted: Service, path: str, body: dict[str, Any]
) -> None:
    content = json.dumps(body).encode()
    connection = http.client.HTTPConnection(urlsplit(drifted.url).netloc, timeout=30)
    connection.putrequest("POST", path)
    for name, value in (
        ("Authorization", f"Bearer {drifted.token(subject='bob')}"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Idempotency-Key", "k"),
    ):
        connection.putheader(name, value)
    connection.endheaders(content[:1])
    # By now the head was judged; where it was not, the request is refused by its head.
    assert decide(drifted, "revoke").status_code == 200
    connection.send(content[1:])
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]["code"]) == (403, "shut_out")
    connection.close()
    assert drifted.active_version() == 2
    assert [row["status"] for row in drifted.audit()[-1:]] == ["failed"]
    assert error(drifted.request("GET", PATH, token=drifted.token(subject="bob"))) == (403, "shut_out")


def test_73_whoever_is_let_in_again_logs_in_anew(drifted: Service) -> None:
    browser, token = drifted.browser(subject="bob"), drifted.token(subject="bob")
    assert error(decide(drifted, "allow")) == (404, "not_found")
    assert decide(drifted, "revoke").status_code == decide(drifted, "revoke").status_code == 200
    assert decide(drifted, "allow").json()["data"]["shut_out"] is False
    assert drifted.request("GET", PATH, token=token).status_code == 200
    assert 'data-code="session_revoked"' in browser.get("/").text
    assert drifted.request("GET", "/v1/ops/access").json()["data"] == []
    assert drifted.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"] is True
    browser.close()


def test_the_same_name_of_another_issuer_is_somebody_else(drifted: Service) -> None:
    assert decide(drifted, "revoke", issuer="https://issuer.example/").status_code == 200
    assert drifted.request("GET", PATH, token=drifted.token(subject="bob")).status_code == 200


def test_73_nobody_without_ops_nor_against_themselves(
    drifted: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drifted.database.content()["shut_out"]
    for what in ("revoke", "allow"):
        assert error(decide(drifted, what, "ann")) == (409, "own_access")
    rows = [(row["action"], row["error_code"]) for row in drifted.audit()[-2:]]
    assert rows == [("shut_out", "own_access"), ("let_in", "own_access")]
    body = {"json": {"subject": "ann", "issuer": "driftback"}, "headers": {"Idempotency-Key": "k"}}
    for what in ("revoke", "allow"):
        support = drifted.token("support", "bob")
        answer = drifted.request("POST", f"/v1/ops/access/{what}", token=support, **body)
        assert error(answer) == (403, "forbidden")
    assert error(decide(drifted, "revoke", "bob\n")) == (422, "invalid_request")
    monkeypatch.setattr(shut_out, "MAX_PEOPLE", 1)
    assert decide(drifted, "revoke", "bob").status_code == 200
    assert error(decide(drifted, "revoke", "carl")) == (409, "too_many_shut_out")
    assert drifted.audit()[-1]["error_code"] == "too_many_shut_out"
    assert before == []
    assert [row[1] for row in drifted.database.content()["shut_out"]] == ["bob"]


def test_73_without_an_audit_row_nobody_is_shut_out(drifted: Service) -> None:
    browser = drifted.browser(subject="bob")
    drifted.database.disable_triggers()
    drifted.database.execute("DELETE FROM audit_head")
    assert error(decide(drifted, "revoke")) == (503, "audit_unavailable")
    assert browser.get("/").status_code == 200
    assert drifted.database.content()["shut_out"] == []
    browser.close()


def test_73_a_new_login_ends_the_session_that_the_browser_had(service: Service) -> None:
    browser = service.browser()
    old = browser.cookie
    link = service.login_link().partition("token=")[2]
    assert browser.post("/login", {"token": link}).status_code == 303
    assert browser.cookie != old
    assert browser.get("/").status_code == 200
    answer = requests.get(service.url, cookies={service.cookie_name: old}, timeout=10)
    assert error(answer) == (401, "session_revoked")
    browser.close()


def test_73_a_new_login_by_the_provider_does_too(start: Callable[..., Service], clock: Clock) -> None:
    with Provider(clock) as provider:
        service = start(oidc_issuer=provider.url, oidc_client_id=CLIENT)
        browser = Browser(service)
        assert browser.get(provider.log_in(begin(browser))).status_code == 303
        old = browser.cookie
        assert browser.get(provider.log_in(begin(browser))).status_code == 303
        answer = requests.get(service.url, cookies={service.cookie_name: old}, timeout=10)
        assert error(answer) == (401, "session_revoked")
        browser.close()


def test_the_command_line_shuts_out_and_lets_in(drifted: Service) -> None:
    there = ("--url", drifted.url, "--token", drifted.token())
    done = run("access", "revoke", "bob", "--reason", "left", *there)
    assert done.stdout.startswith("bob, known by driftback, is blocked (audit row ")
    assert "bob" in run("access", "list", *there).stdout
    assert "may log in again" in run("access", "allow", "bob", *there).stdout
    assert run("access", "list", "--json", *there).stdout == "[]\n"
    assert run("access", "allow", "bob", *there).exit_code == 1


def test_the_help_of_a_command_names_options_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for what in ("revoke", "allow"):
        assert "--from" not in run("access", what, "--help").stdout
    assert "Needs --from." in " ".join(run("persona", "rollback", "--help").stdout.split())
