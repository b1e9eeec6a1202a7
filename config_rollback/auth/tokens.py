"""Signed tokens (JWT, HS256): access tokens for the API, one-time login tokens for browsers.

Stricter than PyJWT's defaults (RFC 8725): algorithm, issuer, audience and header fields are pinned, all
claims are required, a claim occurs once, and no token lives longer than `MAX_LIFETIME_SECONDS`.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlencode

import jwt

from config_rollback.clock import Clock
from config_rollback.errors import TokenExpiredError, TokenInvalidError, TokenScopeMismatchError

ALGORITHM = "HS256"
ISSUER = "driftback"
AUDIENCE = "config_rollback"
MAX_LIFETIME_SECONDS = 24 * 3600
LOGIN_LIFETIME_SECONDS = 15 * 60
LEEWAY_SECONDS = 60
"""How far ahead the clock of a token's issuer may be."""

Scope = Literal["api", "login"]

_MAX_TOKEN_LENGTH = 4096
_HEADER_FIELDS = frozenset({"alg", "typ"})
_REQUIRED = ["exp", "iat", "iss", "aud", "sub", "jti", "scope"]


@dataclass(frozen=True)
class Identity:
    """What a valid token says."""

    subject: str
    role: str
    jti: str
    expires_at: datetime


class TokenVerifier:
    """Checks tokens against a secret and a clock."""

    def __init__(self, secret: str, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def verify(self, token: str, scope: Scope) -> Identity:
        """Who the token names; raises `TokenInvalidError`, `TokenExpiredError`, `TokenScopeMismatchError`."""
        _check_form(token)
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
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
            raise TokenInvalidError("the token is not valid") from error
        expires_at = self._check_times(claims)
        subject, role, jti = (_text(claims, name) for name in ("sub", "role", "jti"))
        if claims["scope"] not in ("api", "login"):
            raise TokenInvalidError("the token is not valid")
        if claims["scope"] != scope:
            raise TokenScopeMismatchError("this token was made for another purpose")
        return Identity(subject, role, jti, expires_at)

    def _check_times(self, claims: dict[str, Any]) -> datetime:
        issued, expires = claims["iat"], claims["exp"]
        if type(issued) is not int or type(expires) is not int:
            raise TokenInvalidError("the token is not valid")
        now = self._clock().timestamp()
        if issued > now + LEEWAY_SECONDS or not 0 < expires - issued <= MAX_LIFETIME_SECONDS:
            raise TokenInvalidError("the token is not valid")
        if expires <= now:
            raise TokenExpiredError("the token is expired")
        return datetime.fromtimestamp(expires, UTC)


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
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "role": role,
        "scope": scope,
        "jti": uuid.uuid4().hex,
        "iat": issued,
        "exp": issued + lifetime,
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def _check_form(token: str) -> None:
    """Refuses what PyJWT lets through: unknown header fields, and a claim given twice."""
    segments = token.split(".")
    if len(token) > _MAX_TOKEN_LENGTH or len(segments) != 3:
        raise TokenInvalidError("the token is not valid")
    header, _ = _decoded(segments[0]), _decoded(segments[1])
    if not _HEADER_FIELDS.issuperset(header):
        raise TokenInvalidError("the token is not valid")


def _decoded(segment: str) -> dict[str, Any]:
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        value = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TokenInvalidError("the token is not valid") from error
    if not isinstance(value, dict):
        raise TokenInvalidError("the token is not valid")
    return value


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate field")
    return result


def _text(claims: dict[str, Any], name: str) -> str:
    """A claim that goes into logs and audit rows: short, and without control characters."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise TokenInvalidError("the token is not valid")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise TokenInvalidError("the token is not valid")
    return value
