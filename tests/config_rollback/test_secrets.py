"""Security case 60: secrets in no answer, log line, representation or row."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import requests
from pydantic import SecretStr

from tests.config_rollback.running import ALERTMANAGER_TOKEN, CONFIG, SECRET, SERVICE_TOKEN, Service
from tests.config_rollback.web.test_api_ops import error


def test_60_secrets_show_up_nowhere(start: Callable[..., Service], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = start(
        rate_limit_store=SecretStr("memory://word-of-store"),
        oidc_issuer="http://127.0.0.1:9",
        oidc_client_id="driftback",
        oidc_client_secret=SecretStr("word-of-client"),
    )
    token, link = service.token(), service.login_link()
    login_token = link.partition("token=")[2]
    browser = service.browser()
    service.publish()
    service.publish()
    answers = [
        requests.get(link, timeout=10, headers={"Accept": "application/json"}),
        service.request("GET", "/v1/ops/personas", token=token),
        service.request("GET", "/v1/ops/personas", token=f"{token}x"),
        service.request("GET", "/v1/ops/personas", token=SERVICE_TOKEN),
        service.request("POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json={}),
        service.request(
            "POST", "/v1/ops/personas/p/versions", token=token, json={"config": CONFIG | {"x": 1}}
        ),
        service.roll_back(expected_version=7, token=token),
        service.config(),
        browser.get("/auth/start"),
        browser.get("/auth/callback?code=word-of-code&state=s"),
        *(browser.get(path) for path in ("/", "/audit", "/alerts", "/rollback/concierge?from=2")),
        service.request("GET", "/metrics", token=None),
    ]
    forms = {browser.get("/").text.partition('name="form_token" value="')[2].partition('"')[0]}
    secrets = {
        SECRET, SERVICE_TOKEN, ALERTMANAGER_TOKEN, token, browser.cookie, "word-of-store", "word-of-client",
        "word-of-code",
    }  # fmt: skip
    logs = "\n".join(record.getMessage() for record in caplog.records if "urllib3" not in record.name)
    stored = str(service.database.content())
    for secret in secrets | {login_token}:
        assert secret not in logs
        assert secret not in stored
        assert secret not in repr(service.app.state.dependencies.settings)
    for secret in secrets:
        assert not any(secret in answer.text for answer in answers)
    assert not any(form in logs or form in stored for form in forms)


def test_an_unexpected_error_tells_no_secret(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service.app.state.dependencies.delivery, "_active", property(fail))
    answer = service.config()
    assert error(answer) == (500, "internal_error")
    assert SECRET not in answer.text
