"""What every signed token must hold, whoever signed it: stricter than PyJWT's defaults (RFC 8725)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from config_rollback.errors import TokenExpiredError, TokenInvalidError
from config_rollback.visible import is_hidden

MAX_LIFETIME_SECONDS = 24 * 3600
LEEWAY_SECONDS = 60
"""How far ahead the clock of a token's issuer may be."""
OPS = "ops"
NO_ROLE = "none"
"""The role of a person whose token names no role, or only roles that mean nothing here."""

_MAX_TOKEN_LENGTH = 8192
MAX_TEXT_LENGTH = 200


def invalid(cause: Exception | None = None) -> TokenInvalidError:
    """The one answer to all that is wrong with a token: it says nothing to whoever forges them."""
    error = TokenInvalidError("the token is not valid")
    error.__cause__ = cause
    return error


def read_header(token: str) -> dict[str, Any]:
    """The header, not verified. Refuses what PyJWT lets through, above all a field or claim given twice."""
    segments = token.split(".")
    if len(token) > _MAX_TOKEN_LENGTH or len(segments) != 3:
        raise invalid()
    header, _ = _decoded(segments[0]), _decoded(segments[1])
    return header


def check_times(claims: dict[str, Any], now: datetime) -> datetime:
    """When the token expires; raises `TokenExpiredError`, or `TokenInvalidError` for more than a day.

    Invalid is also one that is issued later than now, or not yet to be used (`nbf`).
    """
    issued, expires, seconds = claims["iat"], claims["exp"], now.timestamp()
    starts = claims.get("nbf", issued)
    if any(type(moment) is not int for moment in (issued, expires, starts)):
        raise invalid()
    if max(issued, starts) > seconds + LEEWAY_SECONDS or not 0 < expires - issued <= MAX_LIFETIME_SECONDS:
        raise invalid()
    if expires <= seconds:
        raise TokenExpiredError("the token is expired")
    return datetime.fromtimestamp(expires, UTC)


def text(claims: dict[str, Any], name: str) -> str:
    """A claim that goes into logs and audit rows: short, and all of it can be seen."""
    value = claims.get(name)
    if not isinstance(value, str) or not is_plain(value):
        raise invalid()
    return value


def role(claims: dict[str, Any], name: str) -> str:
    """The role in a claim of another issuer: a text as it is, or of a list `ops` where it is an entry.

    A claim that is missing gives the role `none`, which may do nothing.
    """
    value = claims.get(name)
    if isinstance(value, list):
        if OPS in value:
            return OPS
        value = next((entry for entry in value if isinstance(entry, str)), None)
    return value if isinstance(value, str) and is_plain(value) else NO_ROLE


def is_plain(value: str) -> bool:
    """Whether a subject or a role may be in a token."""
    return 1 <= len(value) <= MAX_TEXT_LENGTH and not any(map(is_hidden, value))


def _decoded(segment: str) -> dict[str, Any]:
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        value = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise invalid(error) from error
    if not isinstance(value, dict):
        raise invalid()
    return value


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate field")
    return result
