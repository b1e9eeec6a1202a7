"""Access tokens for the API: this service's own (HS256), and those of another issuer (RS or ES, by JWKS).

The two never meet: each has its algorithms, keys and issuer, and the header only chooses which one tries.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jwt

from config_rollback.auth import claims as rules
from config_rollback.auth.keys import KeySet
from config_rollback.auth.tokens import ALGORITHM, Identity, TokenVerifier
from config_rollback.clock import Clock
from config_rollback.outgoing.sessions import fetch
from config_rollback.settings import Settings

_REFUSED_FIELDS = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})
"""They would let a token bring its own key, `crit` ask for more than is checked; others mean nothing here."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""OpenID Connect Core, section 2: claims of an ID token, which is not an access token."""


class AccessTokens:
    """Checks bearer tokens of people and scripts."""

    def __init__(self, own: TokenVerifier, settings: Settings, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._issuer, self._audience = settings.jwt_issuer, settings.jwt_audience
        self._lifetime = settings.jwt_max_lifetime_seconds
        self._role_claim, self._ops = settings.jwt_role_claim, settings.jwt_ops_roles
        self._keys: KeySet | None = None
        if settings.jwks_file is not None:
            self._keys = KeySet(settings.jwks_file.read_bytes, clock)
        elif settings.jwks_url is not None:
            self._keys = KeySet(partial(fetch, settings.jwks_url), clock)

    async def verify(self, token: str) -> Identity:
        """Who the token names. Raises an `AuthenticationError`, or `LoginUnavailableError` without keys."""
        header = rules.read_header(token)
        if self._keys is None or header.get("alg") == ALGORITHM:
            return self._own.verify(token, "api")
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise rules.invalid(f"typ in its header is none of {', '.join(sorted(_TYPES))}")
        claims = await signed_claims(token, header, self._keys, self._issuer)
        if self._audience not in rules.audiences(claims):
            raise rules.invalid(f"aud is {str(claims['aud'])[:200]!r} and does not hold {self._audience!r}")
        if not _ID_TOKEN_CLAIMS.isdisjoint(claims):
            raise rules.invalid("it is an ID token, which opens no API: an access token is needed")
        expires_at = rules.check_times(claims, self._clock(), self._lifetime, whole=False)
        return Identity(
            subject=rules.text(claims, "sub"),
            role=rules.role(claims, self._role_claim, self._ops),
            jti="",
            expires_at=expires_at,
            issuer=claims["iss"],
        )


async def signed_claims(
    token: str, header: dict[str, Any], keys: KeySet, issuer: str | None
) -> dict[str, Any]:
    """The claims of a token that one of the keys signed; audience and times are for the caller to check."""
    if not _REFUSED_FIELDS.isdisjoint(header):
        raise rules.invalid(f"its header has one of {', '.join(sorted(_REFUSED_FIELDS))}")
    key = await keys.find(header.get("kid"), header.get("alg"))
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            options={
                "require": ["exp", "iat", "iss", "aud", "sub"],
                "verify_aud": False,
                # Checked against the injected clock.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.PyJWTError as error:
        raise rules.invalid(str(error)) from error
    if claims["iss"] != issuer:
        raise rules.invalid(f"iss is {str(claims['iss'])[:200]!r}, not {issuer!r}")
    return claims
