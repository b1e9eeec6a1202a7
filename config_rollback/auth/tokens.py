"""Tokens that this service signs itself (JWT, HS256): for the API, and one-time logins for browsers.

Algorithm, issuer, audience and header fields are pinned, all claims are required, a claim occurs once, and
no token lives longer than `MAX_LIFETIME_SECONDS`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

import jwt

from config_rollback.auth import claims as rules
from config_rollback.auth.claims import MAX_LIFETIME_SECONDS
from config_rollback.clock import Clock
from config_rollback.errors import TokenScopeMismatchError
from config_rollback.signing import OWN_ISSUER

ALGORITHM = "HS256"
AUDIENCE = "config_rollback"
LOGIN_LIFETIME_SECONDS = 15 * 60

Scope = Literal["api", "login"]

_HEADER_FIELDS = frozenset({"alg", "typ"})
_REQUIRED = ["exp", "iat", "iss", "aud", "sub", "jti", "scope"]


@dataclass(frozen=True)
class Identity:
    """What a valid token says."""

    subject: str
    role: str
    jti: str
    expires_at: datetime
    issuer: str


class TokenVerifier:
    """Checks tokens against a secret and a clock."""

    def __init__(self, secret: str, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def verify(self, token: str, scope: Scope) -> Identity:
        """Who the token names; raises `TokenInvalidError`, `TokenExpiredError`, `TokenScopeMismatchError`."""
        if not _HEADER_FIELDS.issuperset(rules.read_header(token)):
            raise rules.invalid("its header has fields that this service's own tokens do not have")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=OWN_ISSUER,
                audience=AUDIENCE,
                options={
                    "require": _REQUIRED,
                    "strict_aud": True,
                    # Checked below against the injected clock, and as whole numbers only.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError as error:
            raise rules.invalid(f"as a token of this service: {error}") from error
        expires_at = rules.check_times(claims, self._clock())
        subject, role, jti = (rules.text(claims, name) for name in ("sub", "role", "jti"))
        if claims["scope"] not in ("api", "login"):
            raise rules.invalid("scope is neither api nor login")
        if claims["scope"] != scope:
            raise TokenScopeMismatchError("this token was made for another purpose")
        return Identity(subject, role, jti, expires_at, OWN_ISSUER)


def mint_access_token(
    secret: str, *, subject: str, role: str, lifetime_seconds: int = 8 * 3600, now: float | None = None
) -> str:
    """A bearer token for the API. Raises `ValueError` for a lifetime that no verifier would take."""
    return _mint(secret, subject, role, "api", lifetime_seconds, now)


def mint_login_link(
    secret: str,
    *,
    subject: str,
    external_url: str,
    next_path: str = "/",
    role: str = "ops",
    now: float | None = None,
) -> str:
    """A link that logs a browser in once, within 15 minutes, and then leads to `next_path`."""
    token = _mint(secret, subject, role, "login", LOGIN_LIFETIME_SECONDS, now)
    query = {"token": token} | ({"next": next_path} if next_path != "/" else {})
    return f"{external_url}/login?{urlencode(query)}"


def _mint(secret: str, subject: str, role: str, scope: Scope, lifetime: int, now: float | None) -> str:
    if not 0 < lifetime <= MAX_LIFETIME_SECONDS:
        raise ValueError(f"a token lives 1 to {MAX_LIFETIME_SECONDS} seconds")
    issued = int(time.time() if now is None else now)
    claims = {
        "iss": OWN_ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "role": role,
        "scope": scope,
        "jti": uuid.uuid4().hex,
        "iat": issued,
        "exp": issued + lifetime,
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)
