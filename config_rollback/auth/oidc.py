"""Logins by an OpenID provider: authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0).

What a login in progress must remember goes into a signed cookie of the browser that began it, so that any
replica can finish it and no other browser can.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session

from config_rollback.attempts import Actor
from config_rollback.auth import claims as rules
from config_rollback.auth.issuers import signed_claims
from config_rollback.auth.keys import FETCH_SECONDS, KeySet, fetch, from_url
from config_rollback.clock import Clock
from config_rollback.errors import (
    AuthenticationError,
    LoginFailedError,
    LoginUnavailableError,
    OidcStateMismatchError,
)
from config_rollback.settings import Settings

LOGIN_SECONDS = 600
"""How long somebody may take to log in at the provider."""
DISCOVERY_AGE = timedelta(hours=1)
CALLBACK_PATH = "/auth/callback"

_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_ALGORITHM = "HS256"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Begun:
    """Where to send the browser, and the cookie that it must bring back with `state`."""

    url: str
    state: str
    cookie: str


@dataclass(frozen=True)
class _Provider:
    endpoints: Mapping[str, str]
    keys: KeySet
    read_at: datetime


class OidcLogins:
    """Logins at the provider of the settings. Its methods wait for the provider: call them in a thread."""

    def __init__(self, issuer: str, client_id: str, settings: Settings, clock: Clock) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._settings = settings
        self._clock = clock
        self._redirect_uri = settings.external_url + CALLBACK_PATH
        secret = settings.jwt_secret.get_secret_value().encode()
        # A key of its own: what it signs can never pass as a token.
        self._key = hmac.new(secret, b"driftback login in progress", hashlib.sha256).digest()
        self._provider: _Provider | None = None
        self._lock = threading.Lock()

    def begin(self, next_path: str) -> Begun:
        """Starts a login that will lead to `next_path`. Raises `LoginUnavailableError`."""
        provider = self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        url, _ = self._client().create_authorization_url(
            provider.endpoints["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
        )
        now = int(self._clock().timestamp())
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "next": next_path}
        cookie = jwt.encode(kept | {"iat": now, "exp": now + LOGIN_SECONDS}, self._key, algorithm=_ALGORITHM)
        return Begun(url, state, cookie)

    def finish(self, cookie: str | None, query: Mapping[str, str]) -> tuple[Actor, str]:
        """Who logged in, and where to go.

        Raises `OidcStateMismatchError` where this browser began no such login, `LoginFailedError` where the
        provider refused or its answer does not hold, `LoginUnavailableError` where it does not answer.
        """
        kept = self._kept(cookie)
        if not hmac.compare_digest(kept["state"].encode(), query.get("state", "").encode()):
            raise OidcStateMismatchError("this login was begun in another browser; begin again")
        if query.get("iss", self._issuer) != self._issuer:  # RFC 9207
            raise OidcStateMismatchError("this answer comes from another provider; begin again")
        if "code" not in query:
            log.warning("login_refused", error=query.get("error", "")[:100])
            raise LoginFailedError("the provider did not let you in")
        provider = self._discover()
        id_token = self._exchange(provider, query["code"], kept["verifier"])
        return self._identify(provider, id_token, kept["nonce"]), kept["next"]

    def next_path(self, cookie: str | None) -> str | None:
        """Where a login that was begun here would lead, even if it took too long; None for another cookie."""
        try:
            return str(self._signed(cookie)["next"])
        except (jwt.PyJWTError, KeyError):
            return None

    def _client(self) -> OAuth2Session:
        secret = self._settings.oidc_client_secret
        return OAuth2Session(
            self._client_id,
            secret.get_secret_value() if secret else None,
            scope=self._settings.oidc_scopes,
            redirect_uri=self._redirect_uri,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            code_challenge_method="S256",
        )

    def _kept(self, cookie: str | None) -> dict[str, str]:
        try:
            kept = self._signed(cookie)
            rules.check_times(kept, self._clock())
        except (jwt.PyJWTError, AuthenticationError) as error:
            raise OidcStateMismatchError(
                "this login was begun in another browser, or too long ago; begin again"
            ) from error
        return kept

    def _signed(self, cookie: str | None) -> dict[str, Any]:
        kept: dict[str, Any] = jwt.decode(
            cookie or "",
            self._key,
            algorithms=[_ALGORITHM],
            options={"require": ["iat", "exp"], "verify_exp": False, "verify_iat": False},
        )
        return kept

    def _exchange(self, provider: _Provider, code: str, verifier: str) -> str:
        try:
            with self._client() as client:
                answer = client.fetch_token(
                    provider.endpoints["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                    timeout=FETCH_SECONDS,
                    allow_redirects=False,
                )
        except AuthlibBaseError as error:
            log.warning("login_code_refused", error=str(error.error)[:100])
            raise LoginFailedError("the provider did not take its own answer back; begin again") from error
        except (requests.RequestException, ValueError) as error:
            raise LoginUnavailableError("the login provider does not answer") from error
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise LoginFailedError("the provider sent no ID token; see CONFIG_ROLLBACK_OIDC_SCOPES")
        return id_token

    def _identify(self, provider: _Provider, id_token: str, nonce: str) -> Actor:
        """The rules of OpenID Connect Core 1.0, section 3.1.3.7."""
        try:
            claims = signed_claims(id_token, rules.read_header(id_token), provider.keys, self._issuer)
            rules.check_times(claims, self._clock())
            audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
            if self._client_id not in audience or claims.get("nonce") != nonce:
                raise rules.invalid()
            if claims.get("azp", self._client_id) != self._client_id or (
                len(audience) > 1 and "azp" not in claims
            ):
                raise rules.invalid()
            subject = rules.text(claims, self._settings.oidc_subject_claim)
        except AuthenticationError as error:
            log.warning("login_id_token_refused", error=error.code)
            raise LoginFailedError("the provider's ID token does not hold") from error
        return Actor(subject, rules.role(claims, self._settings.oidc_role_claim), self._issuer)

    def _discover(self) -> _Provider:
        known = self._provider
        if known is not None and self._clock() - known.read_at < DISCOVERY_AGE:
            return known
        with self._lock:
            if self._provider is not known and self._provider is not None:
                return self._provider
            try:
                self._provider = self._read_provider(known)
            except (requests.RequestException, ValueError) as error:
                log.warning("login_provider_unavailable", error=type(error).__name__)
                if known is None:
                    raise LoginUnavailableError("the login provider does not answer") from error
                return known
            return self._provider

    def _read_provider(self, known: _Provider | None) -> _Provider:
        """OpenID Connect Discovery 1.0, section 4."""
        document = json.loads(fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the document is about another issuer")
        endpoints = {name: str(document.get(name)) for name in _ENDPOINTS}
        allowed = {"https", urlsplit(self._issuer).scheme}
        if not all(urlsplit(url).scheme in allowed and urlsplit(url).hostname for url in endpoints.values()):
            raise ValueError("an endpoint is no URL, or less safe than the issuer's")
        same = known is not None and known.endpoints["jwks_uri"] == endpoints["jwks_uri"]
        keys = known.keys if known and same else KeySet(from_url(endpoints["jwks_uri"]), self._clock)
        return _Provider(endpoints, keys, self._clock())


def from_settings(settings: Settings, clock: Clock) -> OidcLogins | None:
    """The logins of the settings; None where they name no provider."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    return OidcLogins(settings.oidc_issuer, settings.oidc_client_id, settings, clock)
