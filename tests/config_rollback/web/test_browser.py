"""Security cases 1 to 13 and 27, at the level of HTTP: links, forms, logins."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest
import requests
from pydantic import SecretStr

from tests.config_rollback.running import JSON_TYPE, Browser, Service, fields
from tests.config_rollback.web.test_api_ops import error

LINK = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
UNFURLERS = [
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
    "facebookexternalhit/1.1",
    "Mozilla/5.0 (compatible; Google-Safety)",
    "WhatsApp/2.23.20.0",
]


@pytest.fixture
def drifted(service: Service) -> Service:
    """A persona whose version 2 is bad."""
    service.publish()
    service.publish(allowed_topics=["orders"])
    return service


def form(browser: Browser, path: str = LINK) -> dict[str, str]:
    """The rollback form as the page has it."""
    return fields(browser.get(path).text.partition("<details>")[0])


def post_json_error(browser: Browser, sent: dict[str, str], **headers: str | None) -> tuple[int, str]:
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return error(browser.post("/rollback/concierge", sent, {"Accept": "application/json", **renamed}))


def test_1_opening_a_link_changes_nothing(drifted: Service, browser: Browser) -> None:
    before = drifted.database.content()
    for number in range(50):
        for method in ("GET", "HEAD"):
            agent = {"User-Agent": UNFURLERS[number % len(UNFURLERS)], "Accept": "*/*"}
            answer = requests.request(method, drifted.url + LINK, headers=agent, timeout=10)
            assert answer.status_code == 200
            assert answer.url.startswith(drifted.url + "/login?next=%2Frollback%2Fconcierge%3Ffrom%3D2")
            assert browser.session.request(method, drifted.url + LINK, timeout=10).status_code == 200
    assert drifted.database.content() == before


def test_1_opening_a_login_link_uses_nothing_up(drifted: Service) -> None:
    link = drifted.login_link()
    before = drifted.database.content()
    for method in ("GET", "HEAD") * 50:
        assert requests.request(method, link, timeout=10).status_code == 200
    assert drifted.database.content() == before


def test_2_an_action_cannot_be_got(drifted: Service, browser: Browser) -> None:
    api = drifted.request("GET", "/v1/ops/personas/concierge/rollback")
    assert error(api) == (405, "method_not_allowed")
    page = browser.get("/logout", headers={"Accept": "application/json"})
    assert error(page) == (405, "method_not_allowed")
    assert drifted.active_version() == 2


def test_3_a_header_does_not_override_the_method(drifted: Service, browser: Browser) -> None:
    answer = browser.get(LINK, headers={"X-HTTP-Method-Override": "POST"})
    assert answer.status_code == 200
    api = drifted.request(
        "GET", "/v1/ops/personas/concierge/rollback", headers={"X-HTTP-Method-Override": "POST"}
    )
    assert error(api) == (405, "method_not_allowed")
    assert drifted.active_version() == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": None, "Origin": "null"},
        {"Sec_Fetch_Site": None, "Origin": None},
        {"Sec_Fetch_Site": None, "Origin": "https://evil.example"},
    ],
    ids=["4 cross-site", "5 same-site", "6 null origin", "7 neither header", "another origin"],
)
def test_4_to_7_a_form_from_elsewhere_is_refused(
    drifted: Service, browser: Browser, headers: dict[str, str | None]
) -> None:
    sent = form(browser)
    before = drifted.database.content()
    assert post_json_error(browser, sent, **headers) == (403, "csrf_rejected")
    assert drifted.database.content() == before


@pytest.mark.parametrize("path", ["/login", "/logout", "/rollback/concierge"])
def test_an_origin_that_is_no_url_is_another_site(drifted: Service, browser: Browser, path: str) -> None:
    headers = {"Origin": "http://[", "Sec-Fetch-Site": None, "Accept": "application/json"}
    assert error(browser.post(path, form(browser), headers)) == (403, "csrf_rejected")


def test_a_referer_that_is_no_url_leads_nowhere(drifted: Service, browser: Browser) -> None:
    sent = form(browser) | {"form_token": "another"}
    answer = browser.post("/rollback/concierge", sent, {"Referer": "http://[x"})
    assert answer.status_code == 403
    assert 'data-code="csrf_rejected"' in answer.text
    assert "Open the page again" not in answer.text


def test_8_a_form_token_of_another_session_is_refused(drifted: Service, browser: Browser) -> None:
    other = drifted.browser(subject="bob")
    sent = form(browser) | {"form_token": form(other)["form_token"]}
    assert post_json_error(browser, sent) == (403, "csrf_rejected")
    del sent["form_token"]
    assert post_json_error(browser, sent) == (403, "csrf_rejected")
    assert drifted.active_version() == 2
    other.close()


def test_9_json_disguised_as_text_is_refused(drifted: Service, browser: Browser) -> None:
    for path in ("/rollback/concierge", "/logout", "/login"):
        answer = browser.session.post(
            drifted.url + path,
            data=b'{"expected_version": 2}',
            headers={"Content-Type": "text/plain", "Accept": "*/*", "Sec-Fetch-Site": "same-origin"},
            timeout=10,
        )
        assert error(answer) == (415, "unsupported_media_type")
    as_json = browser.session.post(
        drifted.url + "/rollback/concierge", data=b"{}", headers={**JSON_TYPE, "Accept": "*/*"}, timeout=10
    )
    assert error(as_json) == (415, "unsupported_media_type")
    assert drifted.active_version() == 2


def test_10_a_login_link_works_once(service: Service) -> None:
    token = unquote(service.login_link().partition("token=")[2])
    first, second = Browser(service), Browser(service)
    assert first.post("/login", {"token": token}).status_code == 303
    again = second.post("/login", {"token": token}, {"Accept": "application/json"})
    assert error(again) == (409, "token_already_used")
    assert second.get("/").status_code == 303
    assert 'data-code="token_already_used"' in second.get(f"/login?token={token}").text
    first.close()
    second.close()


def test_11_what_others_wrote_is_shown_as_text(service: Service, browser: Browser) -> None:
    script = "<script>alert(1)</script>"
    service.publish(system_prompt="You help.", note=script)
    service.publish(system_prompt=script, allowed_topics=[script, "<img src=x>"], model=script)
    service.publish(script)
    service.roll_back(expected_version=9, reason=script, alert=script)
    pages = [browser.get(path).text for path in ("/", "/audit", f"/rollback/concierge?from=2&alert={script}")]
    for page in pages:
        assert script not in page
        assert "&lt;script&gt;" in page
        assert "<img" not in page.replace('<img src="/static/favicon.svg"', "")


def test_11_pages_forbid_scripts_altogether(browser: Browser) -> None:
    policy = browser.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "script-src" not in policy


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_12_a_login_leads_nowhere_else(service: Service, target: str) -> None:
    browser = Browser(service)
    token = service.login_link().partition("token=")[2]
    shown = browser.get("/login", params={"next": target}, headers={"Accept": "application/json"})
    assert error(shown) == (400, "invalid_redirect")
    sent = browser.post("/login", {"token": token, "next": target}, {"Accept": "application/json"})
    assert error(sent) == (400, "invalid_redirect")
    assert browser.post("/login", {"token": token}).status_code == 303, "the refusal used the token up"
    browser.close()


def test_13_no_page_can_be_framed(browser: Browser) -> None:
    for path in ("/", "/login", "/static/style.css"):
        headers = browser.get(path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"


def test_27_a_copied_cookie_ends_with_the_session(service: Service, browser: Browser) -> None:
    cookies = {service.cookie_name: browser.cookie}
    token = fields(browser.get("/").text)["form_token"]
    assert browser.post("/logout", {"form_token": token}).status_code == 303
    answer = requests.get(service.url + "/", cookies=cookies, allow_redirects=False, timeout=10)
    assert error(answer) == (401, "session_revoked")
    page = requests.get(service.url + "/", cookies=cookies, headers={"Accept": "text/html"}, timeout=10)
    assert page.status_code == 401
    assert 'data-code="session_revoked"' in page.text


def test_a_session_lasts_eight_hours(service: Service, browser: Browser) -> None:
    service.clock.move(hours=7, minutes=59)
    assert browser.get("/").status_code == 200
    service.clock.move(minutes=1)
    answer = browser.get("/", headers={"Accept": "application/json"})
    assert error(answer) == (401, "session_revoked")


def test_a_clock_that_was_set_back_brings_no_session_to_life(service: Service, browser: Browser) -> None:
    service.clock.now -= timedelta(seconds=30)  # a correction
    assert browser.get("/").status_code == 200
    service.clock.now -= timedelta(days=365)
    answer = browser.get("/", headers={"Accept": "application/json"})
    assert error(answer) == (401, "session_revoked")


def test_a_new_signing_secret_ends_every_session(
    service: Service, browser: Browser, start: Callable[..., Service]
) -> None:
    assert browser.get("/").status_code == 200
    rotated = start(jwt_secret=SecretStr("another secret of at least thirty-two bytes"))
    answer = requests.get(
        rotated.url + "/",
        cookies={rotated.cookie_name: browser.cookie},
        headers={"Accept": "application/json"},
        timeout=10,
    )
    assert error(answer) == (401, "session_revoked")


def test_a_made_up_cookie_is_no_session(service: Service) -> None:
    answer = requests.get(service.url + "/", cookies={service.cookie_name: "x" * 43}, timeout=10)
    assert error(answer) == (401, "session_revoked")


def test_the_database_opens_no_session(service: Service, browser: Browser) -> None:
    assert browser.cookie not in str(service.database.content())


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(service: Service) -> None:
    browser = Browser(service)
    token = service.login_link().partition("token=")[2]
    cookie = browser.post("/login", {"token": token}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    browser.close()


def test_an_expired_login_link_says_so(service: Service) -> None:
    link = service.login_link()
    service.clock.move(minutes=16)
    page = requests.get(link, timeout=10)
    assert page.status_code == 200
    assert 'data-code="token_expired"' in page.text
    assert 'id="login-button"' not in page.text


def test_an_access_token_logs_no_browser_in(service: Service) -> None:
    browser = Browser(service)
    answer = browser.post("/login", {"token": service.token()}, {"Accept": "application/json"})
    assert error(answer) == (401, "token_scope_mismatch")
    browser.close()


def test_a_session_of_another_role_sees_nothing(service: Service) -> None:
    browser = service.browser(role="support", subject="bob")
    for path in ("/", "/audit", "/alerts", "/rollback/concierge"):
        answer = browser.get(path)
        assert answer.status_code == 403
        assert 'data-code="forbidden"' in answer.text
    refused = [(row["actor"], row["attempts"]) for row in service.audit()]
    assert refused == [("bob", 1)], "a row for the first; the rest are one row together, later"
    browser.close()


def test_an_old_link_leads_through_the_login_and_back(drifted: Service) -> None:
    browser = Browser(drifted)
    to_login = browser.get(LINK)
    assert to_login.status_code == 303
    page = browser.get(to_login.headers["Location"])
    assert "You followed a rollback link" in page.text
    assert f"driftback login-link --next '{LINK}'" in html.unescape(page.text)
    link = drifted.login_link(next_path=LINK).removeprefix(drifted.url)
    answer = browser.post("/login", fields(browser.get(link).text))
    assert (answer.status_code, answer.headers["Location"]) == (303, LINK)
    assert 'id="rollback-button"' in browser.get(LINK).text
    browser.close()
