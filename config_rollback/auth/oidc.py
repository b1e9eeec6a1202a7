"""Logins by an OpenID provider: authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0).

What a login in progress must remember goes into a signed cookie of the browser that began it, so that any
replica can finish it and no other browser can.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session

from config_rollback.auth import claims as rules
from config_rollback.auth.issuers import signed_claims
from config_rollback.auth.keys import KeySet
from config_rollback.auth.redirects import CALLBACK_PATH, LOGIN_SECONDS
from config_rollback.clock import Clock
from config_rollback.errors import (
    AuthenticationError,
    LoginFailedError,
    LoginUnavailableError,
    OidcStateMismatchError,
)
from config_rollback.outgoing import sessions as outgoing
from config_rollback.outgoing.calls import Calls, Document
from config_rollback.rollback.attempts import Actor
from config_rollback.settings import Settings

DISCOVERY_AGE = timedelta(hours=1)
EXCHANGE_SECONDS = 6.0
"""How long a browser waits for the provider to take its code back, a thread that gets free included."""
MAX_EXCHANGES = 4
"""Calls at the same time: anybody can start a login and come back with an invalid code."""

_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_ALGORITHM = "HS256"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Begun:
    """Where to send the browser, and the cookie that it must bring back with `state`."""

    url: str
    state: str
    cookie: str


class OidcLogins:
    """Logins at the provider of the settings."""

    def __init__(self, issuer: str, client_id: str, settings: Settings, clock: Clock) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._settings = settings
        self._clock = clock
        self._redirect_uri = settings.external_url + CALLBACK_PATH
        secret = settings.jwt_secret.get_secret_value().encode()
        # A separate key, so that nothing signed with it can pass as a token.
        self._key = hmac.new(secret, b"driftback login in progress", hashlib.sha256).digest()
        self._endpoints = Document("OpenID discovery", self._discover, clock, DISCOVERY_AGE)
        self._keys = KeySet(lambda: outgoing.fetch(self._jwks_uri), clock)
        self._jwks_uri = ""  # until it was discovered, which no login comes before
        self._exchanges = Calls(MAX_EXCHANGES)

    async def begin(self, next_path: str) -> Begun:
        """Starts a login that will lead to `next_path`. Raises `LoginUnavailableError`."""
        endpoints = await self._endpoints.get()
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        url, _ = self._client().create_authorization_url(
            endpoints["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
        )
        now = int(self._clock().timestamp())
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "next": next_path}
        cookie = jwt.encode(kept | {"iat": now, "exp": now + LOGIN_SECONDS}, self._key, algorithm=_ALGORITHM)
        return Begun(url, state, cookie)

    async def finish(self, cookie: str | None, query: Mapping[str, str]) -> tuple[Actor, str]:
        """The person who logged in, and the page to open.

        Raises `OidcStateMismatchError` if this browser began no such login, `LoginFailedError` where the
        provider refused or its answer does not hold, `LoginUnavailableError` where it does not answer.
        """
        kept = self._kept(cookie)
        if not hmac.compare_digest(kept["state"].encode(), query.get("state", "").encode()):
            raise OidcStateMismatchError("this login was started in another browser; log in again")
        if query.get("iss", self._issuer) != self._issuer:  # RFC 9207
            raise OidcStateMismatchError("this response comes from another provider; log in again")
        if "code" not in query:
            log.warning("login_refused", error=query.get("error", "")[:100])
            raise LoginFailedError("the provider refused your login")
        endpoints = await self._endpoints.get()
        exchange = partial(self._exchange, endpoints["token_endpoint"], query["code"], kept["verifier"])
        try:
            id_token = await self._exchanges.run(exchange, EXCHANGE_SECONDS)
        except TimeoutError as error:
            raise LoginUnavailableError("the login provider did not answer in time; try again") from error
        return await self._identify(id_token, kept["nonce"]), kept["next"]

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

    def _exchange(self, url: str, code: str, verifier: str) -> str:
        try:
            with self._client() as client:
                outgoing.prepare(client, url)
                answer = client.fetch_token(
                    url,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                    timeout=outgoing.FETCH_SECONDS,
                    allow_redirects=False,
                )
        except AuthlibBaseError as error:
            log.warning("login_code_refused", error=str(error.error)[:100])
            raise LoginFailedError(
                "the provider refused the code that it had issued; log in again"
            ) from error
        except Exception as error:  # such as an answer that is no object, or nests without end
            log.warning("login_provider_failed", error=type(error).__name__)
            raise LoginUnavailableError("the login provider cannot be reached; try again") from error
        id_token = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(id_token, str):
            raise LoginFailedError("the provider sent no ID token; see CONFIG_ROLLBACK_OIDC_SCOPES")
        return id_token

    async def _identify(self, id_token: str, nonce: str) -> Actor:
        """The rules of OpenID Connect Core 1.0, section 3.1.3.7."""
        try:
            header = rules.read_header(id_token)
            claims = await signed_claims(id_token, header, self._keys, self._issuer)
            # For how long it is good does not matter: it is used once, now.
            rules.check_times(claims, self._clock(), math.inf, whole=False)
            audience = rules.audiences(claims)
            if self._client_id not in audience:
                raise rules.invalid(
                    f"aud is {str(claims['aud'])[:200]!r} and does not hold {self._client_id!r}"
                )
            if claims.get("nonce") != nonce:
                raise rules.invalid("nonce is not that of this login")
            if claims.get("azp", self._client_id) != self._client_id or (
                len(audience) > 1 and "azp" not in claims
            ):
                raise rules.invalid(f"azp is not {self._client_id!r}")
            subject = rules.text(claims, self._settings.oidc_subject_claim)
        except AuthenticationError as error:
            log.warning("login_id_token_refused", error=error.code, reason=error.reason)
            raise LoginFailedError("the provider's ID token is not valid") from error
        settings = self._settings
        role = rules.role(claims, settings.oidc_role_claim, settings.oidc_ops_roles)
        return Actor(subject, role, self._issuer)

    def _discover(self) -> Mapping[str, str]:
        """OpenID Connect Discovery 1.0, section 4."""
        document = json.loads(outgoing.fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the document is about another issuer")
        endpoints = {name: str(document.get(name)) for name in _ENDPOINTS}
        allowed = {"https", urlsplit(self._issuer).scheme}
        if not all(urlsplit(url).scheme in allowed and urlsplit(url).hostname for url in endpoints.values()):
            raise ValueError("an endpoint is not a URL, or is less safe than the issuer")
        self._jwks_uri = endpoints["jwks_uri"]
        return endpoints
