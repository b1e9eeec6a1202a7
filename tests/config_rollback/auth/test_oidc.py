"""Logins by an OpenID provider, its every answer broken once; a provider of the test's own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest
import requests
from pydantic import SecretStr

from tests.config_rollback.auth.test_issuers import RSA_KEY, STRANGER, public
from tests.config_rollback.auth.test_tokens import signed
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Browser, Clock, Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.documents import Documents

LINK = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
CLIENT = "driftback"
CLIENT_SECRET = "the-secret-of-the-client"


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


class Provider(Documents):
    """An OpenID provider that lets everybody in as ann, with `changes` to the claims of the ID token."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(jwks=json.dumps({"keys": [public(RSA_KEY, "r1")]}).encode())
        self.clock = clock
        self.changes: dict[str, Any] = {}
        self.key = RSA_KEY
        self.id_token: str | None = None
        self.answer: tuple[int, bytes] | None = None
        self.asked: dict[str, str] = {}
        self.exchanged: list[tuple[dict[str, str], dict[str, str]]] = []
        self.on_post = self.token
        self.documents["/.well-known/openid-configuration"] = json.dumps(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
            }
        ).encode()

    def log_in(self, to: str, **more: str) -> str:
        """What a browser does that is sent to the provider; returns where it is sent back."""
        parts = urlsplit(to)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.url}/authorize"
        self.asked = dict(parse_qsl(parts.query))
        back = urlsplit(self.asked["redirect_uri"])
        query = {"code": "the-code", "state": self.asked["state"]} | more
        return f"{back.path}?{'&'.join(f'{name}={value}' for name, value in query.items())}"

    def token(self, path: str, form: dict[str, str], headers: dict[str, str]) -> tuple[int, bytes]:
        """The token endpoint."""
        assert path == "/token"
        self.exchanged.append((form, headers))
        now = int(self.clock().timestamp())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "ann",
            "role": "ops",
            "nonce": self.asked["nonce"],
            "iat": now,
            "exp": now + 300,
        } | self.changes
        claims = {name: value for name, value in claims.items() if value is not None}
        id_token = self.id_token or jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "r1"})
        token = {"access_token": "opaque", "token_type": "Bearer", "id_token": id_token}
        return self.answer or (200, json.dumps(token).encode())


@pytest.fixture
def provider(clock: Clock) -> Iterator[Provider]:
    with Provider(clock) as provider:
        yield provider


@pytest.fixture
def service(start: Callable[..., Service], provider: Provider) -> Service:
    """A service with the provider, and a persona whose version 2 is bad."""
    service = start(
        oidc_issuer=provider.url, oidc_client_id=CLIENT, oidc_client_secret=SecretStr(CLIENT_SECRET)
    )
    service.publish()
    service.publish(allowed_topics=["orders"])
    return service


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    """A browser that is not logged in."""
    browser = Browser(service)
    yield browser
    browser.close()


def begin(browser: Browser, next_path: str = LINK) -> str:
    """Starts a login; returns the provider's address."""
    answer = browser.get("/auth/start", params={"next": next_path})
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def logins(browser: Browser) -> list[str]:
    """The cookies of logins in progress, by name."""
    prefix = f"{browser.service.cookie_name}_login_"
    return [cookie.name for cookie in browser.session.cookies if cookie.name.startswith(prefix)]


def refusal(browser: Browser, path: str) -> tuple[int, str]:
    answer = browser.get(path, headers={"Accept": "application/json"})
    assert browser.service.cookie_name not in answer.cookies
    return error(answer)


def test_a_login_leads_back_to_the_same_link(service: Service, provider: Provider, browser: Browser) -> None:
    to_login = browser.get(LINK)
    page = browser.get(to_login.headers["Location"]).text
    href = page.partition('id="oidc-button"')[2].partition('href="')[2].partition('"')[0]
    to = browser.get(href.replace("&amp;", "&")).headers["Location"]
    answer = browser.get(provider.log_in(to))
    assert (answer.status_code, answer.headers["Location"]) == (303, LINK)
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    shown = browser.get(LINK).text
    assert 'id="rollback-button"' in shown
    assert "The audit row will name ann." in shown


def test_two_tabs_log_in_side_by_side(provider: Provider, browser: Browser) -> None:
    tabs = {path: begin(browser, path) for path in (LINK, "/rollback/coach?from=5")}
    for path, to in tabs.items():
        answer = browser.get(provider.log_in(to))
        assert (answer.status_code, answer.headers["Location"]) == (303, path)
    assert logins(browser) == []


def test_of_many_logins_in_progress_the_oldest_are_forgotten(provider: Provider, browser: Browser) -> None:
    begun = [begin(browser) for _ in range(10)]
    kept = logins(browser)
    assert 4 <= len(kept) < 10
    assert sum(len(browser.session.cookies[name]) for name in kept) <= 4000
    forgotten, still = begun[: -len(kept)], begun[-len(kept) :]
    assert refusal(browser, provider.log_in(forgotten[-1])) == (400, "oidc_state_mismatch")
    assert [browser.get(provider.log_in(to)).status_code for to in still] == [303] * len(kept)
    long = [begin(browser, "/" + "x" * 1999) for _ in range(3)]
    assert len(logins(browser)) == 1
    assert browser.get(provider.log_in(long[-1])).status_code == 303


def test_a_login_that_did_not_work_can_be_begun_again_for_the_same_link(
    service: Service, provider: Provider, browser: Browser
) -> None:
    again = f'href="/login?{urlencode({"next": LINK})}"'
    denied = provider.log_in(begin(browser), error="access_denied").replace("code=the-code&", "")
    assert again in browser.get(denied).text
    assert again in browser.get(provider.log_in(begin(browser), iss="https://evil.example")).text
    service.clock.move(minutes=10)
    assert again in browser.get(denied).text
    for name in logins(browser):
        forged = jwt.encode({"next": LINK}, "another key of at least thirty-two bytes", algorithm="HS256")
        browser.session.cookies.set(name, forged, domain="127.0.0.1", path="/")
    assert 'href="/login?next=%2F"' in browser.get(denied).text


def test_the_code_is_bound_to_this_login(service: Service, provider: Provider, browser: Browser) -> None:
    browser.get(provider.log_in(begin(browser)))
    asked, (form, headers) = provider.asked, provider.exchanged[0]
    assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", CLIENT, "openid")
    assert asked["redirect_uri"] == form["redirect_uri"] == f"{service.url}/auth/callback"
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert asked["code_challenge"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert asked["code_challenge_method"] == "S256"
    assert (form["grant_type"], form["code"]) == ("authorization_code", "the-code")
    assert base64.b64decode(headers["Authorization"].split()[1]).decode() == f"{CLIENT}:{CLIENT_SECRET}"
    assert form["code_verifier"] not in json.dumps(asked)


def test_no_two_logins_share_a_state_or_nonce(provider: Provider, browser: Browser) -> None:
    seen = [dict(parse_qsl(urlsplit(begin(browser)).query)) for _ in range(3)]
    for name in ("state", "nonce", "code_challenge"):
        assert len({asked[name] for asked in seen}) == 3


def test_28_a_callback_in_another_browser_is_refused(
    service: Service, provider: Provider, browser: Browser
) -> None:
    back = provider.log_in(begin(browser))
    stranger = Browser(service)
    assert refusal(stranger, back) == (400, "oidc_state_mismatch")
    begin(stranger)
    assert refusal(stranger, back) == (400, "oidc_state_mismatch")
    assert provider.exchanged == []
    page = stranger.get(back)
    assert page.status_code == 400
    assert 'data-code="oidc_state_mismatch"' in page.text
    assert 'id="login-again"' in page.text
    assert browser.get(back).status_code == 303, "the refusals spoiled the login of the first browser"
    stranger.close()


def test_an_answer_for_another_login_of_this_browser_is_refused(provider: Provider, browser: Browser) -> None:
    back = provider.log_in(begin(browser))
    begin(browser)
    first, second = logins(browser)
    cookies = browser.session.cookies
    cookies.set(first, cookies[second], domain="127.0.0.1", path="/")
    assert refusal(browser, back) == (400, "oidc_state_mismatch")


def test_a_login_that_took_too_long_is_refused(
    service: Service, provider: Provider, browser: Browser
) -> None:
    back = provider.log_in(begin(browser))
    service.clock.move(minutes=10)
    assert refusal(browser, back) == (400, "oidc_state_mismatch")


def test_an_answer_of_another_provider_is_refused(provider: Provider, browser: Browser) -> None:
    back = provider.log_in(begin(browser), iss="https://evil.example")
    assert refusal(browser, back) == (400, "oidc_state_mismatch")


def test_an_answer_given_twice_is_refused(provider: Provider, browser: Browser) -> None:
    back = provider.log_in(begin(browser))
    assert refusal(browser, f"{back}&code=other") == (422, "invalid_request")


def test_the_cookie_of_a_login_is_no_session_and_no_token(
    service: Service, provider: Provider, browser: Browser
) -> None:
    state = dict(parse_qsl(urlsplit(begin(browser)).query))["state"]
    (name,) = logins(browser)
    cookie = browser.session.cookies[name]
    answer = requests.get(service.url, cookies={service.cookie_name: cookie}, timeout=10)
    assert error(answer) == (401, "session_revoked")
    assert error(service.request("GET", "/v1/ops/personas", token=cookie)) == (401, "token_invalid")
    own = service.token()
    browser.session.cookies.set(name, own, domain="127.0.0.1", path="/")
    assert refusal(browser, f"/auth/callback?code=c&state={state}") == (400, "oidc_state_mismatch")


def test_the_provider_may_refuse(provider: Provider, browser: Browser) -> None:
    state = dict(parse_qsl(urlsplit(begin(browser)).query))["state"]
    path = f"/auth/callback?error=access_denied&state={state}"
    assert refusal(browser, path) == (401, "login_failed")
    assert 'data-code="login_failed"' in browser.get(path).text


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"azp": "another"},
        {"iss": "https://issuer.example"},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sub": "ann\nroot"},
    ],
    ids=str,
)
def test_an_id_token_that_does_not_hold_is_refused(
    provider: Provider, browser: Browser, changes: dict[str, Any]
) -> None:
    provider.changes = changes
    assert refusal(browser, provider.log_in(begin(browser))) == (401, "login_failed")


def test_an_id_token_that_another_key_signed_is_refused(provider: Provider, browser: Browser) -> None:
    provider.key = STRANGER
    assert refusal(browser, provider.log_in(begin(browser))) == (401, "login_failed")
    provider.id_token = signed({"iss": provider.url}, {"alg": "HS256", "typ": "JWT"}, key=CLIENT_SECRET)
    assert refusal(browser, provider.log_in(begin(browser))) == (401, "login_failed")


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (400, b'{"error": "invalid_grant"}', (401, "login_failed")),
        (200, b'{"access_token": "opaque", "token_type": "Bearer"}', (401, "login_failed")),
        (200, b"<html>", (503, "login_unavailable")),
        (502, b"", (503, "login_unavailable")),
    ],
)
def test_a_code_that_is_not_taken_back(
    provider: Provider, browser: Browser, status: int, answer: bytes, expected: tuple[int, str]
) -> None:
    provider.answer = (status, answer)
    assert refusal(browser, provider.log_in(begin(browser))) == expected


def test_a_provider_that_is_away_is_said_to_be(
    service: Service, provider: Provider, browser: Browser
) -> None:
    provider.down = True
    assert refusal(browser, "/auth/start") == (503, "login_unavailable")
    assert browser.get("/login").status_code == 200
    provider.down = False
    assert refusal(browser, "/auth/start") == (503, "login_unavailable")
    service.clock.move(seconds=5)
    back = provider.log_in(begin(browser))
    provider.down = True  # its documents; they are known already but for the keys
    assert refusal(browser, back) == (503, "login_unavailable")


def test_a_document_about_another_issuer_is_not_believed(provider: Provider, browser: Browser) -> None:
    path = "/.well-known/openid-configuration"
    provider.documents[path] = provider.documents[path].replace(
        provider.url.encode(), b"https://x.example", 1
    )
    assert refusal(browser, "/auth/start") == (503, "login_unavailable")


@pytest.mark.parametrize(
    ("changes", "role"),
    [
        ({"role": "support"}, "support"),
        ({"role": "OPS"}, "OPS"),
        ({"role": ["user", "ops,user"]}, "user"),
        ({"role": None}, "none"),
        ({"role": ["\n"]}, "none"),
    ],
)
def test_25_whoever_is_not_ops_sees_nothing(
    service: Service, provider: Provider, browser: Browser, changes: dict[str, Any], role: str
) -> None:
    provider.changes = changes
    assert browser.get(provider.log_in(begin(browser))).status_code == 303
    answer = browser.get(LINK)
    assert answer.status_code == 403
    assert 'data-code="forbidden"' in answer.text
    row = service.audit()[-1]
    assert (row["actor"], row["role"], row["error_code"]) == ("ann", role, "forbidden")
    assert row["issuer"] == provider.url, "the session has lost its issuer"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [CLIENT]},
        {"aud": [CLIENT, "account"], "azp": CLIENT},
        {"iat": 1772366400.25, "exp": 1772366700.75},
        {"exp": 1772366400 + 30 * 86400},
    ],
    ids=["aud in a list", "aud and azp", "fractions", "30 days"],
)
def test_an_id_token_of_another_kind_holds(
    provider: Provider, browser: Browser, changes: dict[str, Any]
) -> None:
    provider.changes = changes
    assert browser.get(provider.log_in(begin(browser))).status_code == 303


def test_the_log_says_why_an_id_token_does_not_hold(
    provider: Provider, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    provider.changes = {"aud": "another-client"}
    assert refusal(browser, provider.log_in(begin(browser))) == (401, "login_failed")
    (line,) = [json.loads(r.message) for r in caplog.records if "login_id_token_refused" in r.message]
    assert line["reason"] == f"aud is 'another-client' and does not hold '{CLIENT}'"


def test_role_and_name_come_from_the_claims_of_the_settings(
    start: Callable[..., Service], provider: Provider
) -> None:
    service = start(
        oidc_issuer=provider.url,
        oidc_client_id=CLIENT,
        oidc_scopes="openid email",
        oidc_role_claim="access.groups",
        oidc_ops_roles=("/sre", "/ops"),
        oidc_subject_claim="email",
    )
    provider.changes = {"role": None, "access": {"groups": ["/staff", "/ops"]}, "email": "ann@example.org"}
    browser = Browser(service)
    browser.get(provider.log_in(begin(browser)))
    assert "ann@example.org" in browser.get("/").text
    assert provider.asked["scope"] == "openid email"
    form, headers = provider.exchanged[0]
    assert form["client_id"] == CLIENT, "a public client names itself in the form"
    assert "Authorization" not in headers
    browser.close()


def test_12_a_login_leads_nowhere_else(browser: Browser) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        answer = browser.get("/auth/start", params={"next": target}, headers={"Accept": "application/json"})
        assert error(answer) == (400, "invalid_redirect")


def test_without_a_provider_there_is_no_such_login(start: Callable[..., Service]) -> None:
    service = start()
    browser = Browser(service)
    for path in ("/auth/start", "/auth/callback?code=c&state=s"):
        assert refusal(browser, path) == (404, "not_found")
    assert "oidc-button" not in browser.get("/login").text
    browser.close()
