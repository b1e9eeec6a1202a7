"""What every signed token must contain, for every issuer: stricter than PyJWT's defaults (RFC 8725)."""

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

_MAX_TOKEN_LENGTH = 24_576  # a head of 32 KiB has room for it
"""Enough for the 200 groups that Entra ID puts into a token."""
_LAST_MOMENT = 253_370_764_800  # the year 9999: datetime knows no 10000
MAX_TEXT_LENGTH = 255
"""OpenID Connect Core, section 2: of `sub`."""


def invalid(reason: str) -> TokenInvalidError:
    """The one answer to all that is wrong with a token; the reason, which holds no token, is for the log."""
    error = TokenInvalidError("the token is not valid")
    error.reason = reason
    return error


def read_header(token: str) -> dict[str, Any]:
    """The header, not verified. Refuses what PyJWT lets through, above all a field or claim given twice."""
    segments = token.split(".")
    if len(segments) != 3:
        raise invalid("it is no signed JWT, which has three parts")
    if len(token) > _MAX_TOKEN_LENGTH:
        raise invalid(f"it is longer than {_MAX_TOKEN_LENGTH} characters")
    header, _ = _decoded(segments[0]), _decoded(segments[1])
    return header


def check_times(
    claims: dict[str, Any], now: datetime, lifetime: float = MAX_LIFETIME_SECONDS, *, whole: bool = True
) -> datetime:
    """When the token expires; raises `TokenExpiredError`, or `TokenInvalidError` for more than `lifetime`.

    Invalid is also one that is issued later than now, or not yet to be used (`nbf`). With `whole`, times have
    no fraction, which RFC 7519, section 2, allows.
    """
    issued, expires, seconds = claims["iat"], claims["exp"], now.timestamp()
    starts = claims.get("nbf", issued)
    for moment in (issued, expires, starts):
        if type(moment) not in ((int,) if whole else (int, float)) or not 0 <= moment <= _LAST_MOMENT:
            raise invalid("iat, exp and nbf are to be seconds since 1970" + (", whole ones" if whole else ""))
    if max(issued, starts) > seconds + LEEWAY_SECONDS:
        raise invalid(f"iat or nbf is more than {LEEWAY_SECONDS} s ahead of this machine's clock")
    if not 0 < expires - issued <= lifetime:
        raise invalid(
            f"it lives for {expires - issued:.0f} s; more than 0 and up to {lifetime:.0f} are taken"
        )
    if expires <= seconds:
        raise TokenExpiredError("the token has expired")
    return datetime.fromtimestamp(expires, UTC)


def audiences(claims: dict[str, Any]) -> list[Any]:
    """`aud`, which is one or a list (RFC 7519, section 4.1.3)."""
    aud = claims["aud"]
    return aud if isinstance(aud, list) else [aud]


def text(claims: dict[str, Any], name: str) -> str:
    """A claim that goes into logs and audit rows: short, and all of it can be seen."""
    value = claims.get(name)
    if not isinstance(value, str) or not is_plain(value):
        raise invalid(
            f"{name} is to be a text of 1 to {MAX_TEXT_LENGTH} characters, without control characters"
        )
    return value


def role(claims: dict[str, Any], path: str, ops: Sequence[str]) -> str:
    """The role from another issuer: `ops` if the claim is, or contains, one of the names in `ops`.

    Otherwise the text there, for the audit; a claim that is missing gives `none`, which may do nothing.
    """
    value = _at(claims, path)
    values = [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str)]
    if not set(ops).isdisjoint(values):
        return OPS
    named = values[0] if values else NO_ROLE
    # If the settings name other roles, the role `ops` of that issuer has no meaning.
    return named if is_plain(named) and named != OPS else NO_ROLE


def _at(claims: Any, path: str) -> Any:
    """The value at a path of names separated by dots; a name may contain dots itself."""
    if not isinstance(claims, dict):
        return None
    if path in claims:
        return claims[path]
    parts = path.split(".")
    splits = ((".".join(parts[:count]), ".".join(parts[count:])) for count in range(1, len(parts)))
    return next((_at(claims[name], rest) for name, rest in splits if name in claims), None)


def is_plain(value: str) -> bool:
    """Whether a subject or a role may be in a token."""
    return 1 <= len(value) <= MAX_TEXT_LENGTH and not any(map(is_hidden, value))


def _decoded(segment: str) -> dict[str, Any]:
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        value = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise invalid("its header or payload is no JSON, or names a field twice") from error
    if not isinstance(value, dict):
        raise invalid("its header or payload is no JSON object")
    return value


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate field")
    return result
