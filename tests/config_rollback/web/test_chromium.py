"""The whole rollback in a real browser, logged in by an OpenID provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Clock, Service
from tests.support.browser import browser_page
from tests.support.stacks import free_port

LINK = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
USERS = ({"sub": "ann", "role": "ops"}, {"sub": "bob", "role": "support"})


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


@pytest.fixture
def clock() -> Clock:
    """The real time at the start: the provider keeps to it."""
    clock = Clock()
    clock.now = datetime.now(UTC)
    return clock


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """oidc-provider-mock, in a process of its own: it switches checks off for the whole process."""
    port = free_port()
    users = [word for user in USERS for word in ("--user-claims", json.dumps(user))]
    command = [
        sys.executable,
        "-m",
        "oidc_provider_mock",
        "--port",
        str(port),
        "--require-nonce",
        "true",
        *users,
    ]
    log: Path = tmp_path_factory.mktemp("provider") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "NO_COLOR": "1"})
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.get(f"{url}/jwks", timeout=5).raise_for_status()
            break
        except requests.RequestException:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def service(start: Callable[..., Service], issuer: str) -> Service:
    """A service with the provider, and a persona whose version 2 is bad."""
    service = start(
        oidc_issuer=issuer, oidc_client_id="driftback", oidc_client_secret=SecretStr("any secret will do")
    )
    service.publish(note="reviewed")
    service.publish(note="tidied", allowed_topics=["orders"])
    return service


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as page:
        yield page


def log_in(page: Page, user: str = "ann") -> None:
    """From the login page, by the provider, back to where one wanted to go."""
    page.get_by_test_id("oidc-button").click()
    page.get_by_role("button", name=user, exact=True).click()


def test_from_the_alerts_link_to_the_restored_version_and_out(service: Service, page: Page) -> None:
    service.config("concierge", "?client=a&serving=2")
    page.goto(service.url + LINK)
    expect(page.locator("#login")).to_contain_text("You followed a rollback link")
    log_in(page)
    expect(page).to_have_url(service.url + LINK)
    expect(page.get_by_role("heading", level=1)).to_have_text("Roll concierge back to version 1?")
    expect(page.locator("#diff")).to_contain_text("returns")

    page.get_by_label("Reason").fill("topics lost")
    page.get_by_test_id("rollback-button").click()
    result = page.get_by_test_id("rollback-result")
    expect(result).to_have_attribute("data-status", "succeeded")
    expect(result).to_have_attribute("data-converged", "0")
    service.config("concierge", "?client=a&serving=1")
    expect(result).to_have_attribute("data-converged", "1")  # the page reloads by itself
    row = service.audit()[-1]
    assert (row["actor"], row["role"], row["action"], row["reason"]) == (
        "ann",
        "ops",
        "rollback",
        "topics lost",
    )
    assert result.get_attribute("data-audit-id") == str(row["audit_id"])

    address = page.url
    copied = page.context.cookies()
    page.locator("#logout-button").click()
    expect(page.locator("#login")).to_be_visible()
    page.goto(address)
    expect(page.locator("#login")).to_be_visible()
    page.context.add_cookies(copied)  # type: ignore[arg-type]
    page.goto(address)
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "session_revoked")
    assert service.active_version() == 1


def test_a_session_that_is_over_leads_back_to_the_same_link(service: Service, page: Page) -> None:
    page.goto(service.url + LINK)
    log_in(page)
    expect(page.get_by_test_id("rollback-button")).to_be_visible()
    service.clock.move(hours=8)
    page.get_by_test_id("rollback-button").click()
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "session_revoked")
    assert service.active_version() == 2
    service.clock.now = datetime.now(UTC)  # the provider does not travel in time
    page.get_by_role("link", name="Log in and come back to this page").click()
    log_in(page)
    expect(page).to_have_url(service.url + LINK)
    page.get_by_test_id("rollback-button").click()
    expect(page.get_by_test_id("rollback-result")).to_have_attribute("data-status", "succeeded")


def test_somebody_without_the_role_is_told_so(service: Service, page: Page) -> None:
    page.goto(service.url + LINK)
    log_in(page, "bob")
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "forbidden")
    assert page.get_by_test_id("rollback-button").count() == 0
    assert (service.audit()[-1]["actor"], service.audit()[-1]["error_code"]) == ("bob", "forbidden")


def test_a_login_denied_at_the_provider_can_be_begun_again(service: Service, page: Page) -> None:
    page.goto(f"{service.url}/login?next=/audit")
    page.get_by_test_id("oidc-button").click()
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "oidc_state_mismatch")
    page.locator("#login-again").click()
    log_in(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Personas")


def test_the_whole_rollback_works_by_keyboard(service: Service, page: Page) -> None:
    page.goto(service.url + LINK)
    log_in(page)
    expect(page.get_by_test_id("rollback-button")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"no visible focus on {focused or 'an element without id'}"
        if focused == "rollback-button":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("rollback-result")).to_have_attribute("data-status", "succeeded")


def test_a_name_from_right_to_left_does_not_turn_versions_round(service: Service, page: Page) -> None:
    name = "קונסיירז"
    service.publish(name)
    service.publish(name)
    page.goto(service.url + "/audit")
    log_in(page)
    row = page.get_by_test_id("audit-row").first
    named, versions = row.locator("strong").bounding_box(), row.locator(".step").bounding_box()
    assert named is not None
    assert versions is not None
    assert named["x"] < versions["x"]
