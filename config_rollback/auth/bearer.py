"""The Authorization header, and the static tokens of services and of Alertmanager."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from config_rollback.auth.claims import invalid
from config_rollback.errors import UnauthenticatedError


def bearer_token(authorization: str | None) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750); raises `UnauthenticatedError` without one."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError("send a bearer token: Authorization: Bearer TOKEN")
    return token.strip()


def check_static(token: str, accepted: Sequence[SecretStr]) -> None:
    """Raises `TokenInvalidError` unless the token is one of `accepted`; takes the same time for each."""
    matches = [
        hmac.compare_digest(token.encode("utf-8", "surrogateescape"), known.get_secret_value().encode())
        for known in accepted
    ]
    if not any(matches):
        raise invalid("it is none of the tokens in the settings")
