"""Public keys of another issuer (JWKS, RFC 7517), cached, and fetched again no more than once a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import jwt
import msgspec
import structlog

from config_rollback.auth.claims import invalid
from config_rollback.clock import Clock
from config_rollback.outgoing.calls import Document
from exporter.strict import check_json

REFRESH = timedelta(minutes=10)
"""How old the keys may get before they are looked for again."""
MINIMUM_RSA_BITS = 2048

ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384", "RS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
}
"""What a key of each kind may verify. No HS: a public key must never be taken for a shared secret."""

log = structlog.get_logger(__name__)

Keys = Mapping[tuple[str, str], jwt.PyJWK]


class KeySet:
    """The keys of one document, by key id and algorithm. `read` returns the document."""

    def __init__(self, read: Callable[[], bytes], clock: Clock) -> None:
        self._document = Document("signing keys", lambda: _parse(read()), clock, REFRESH)

    async def find(self, kid: object, algorithm: object) -> jwt.PyJWK:
        """The key that the header of a token names; without an id, the only one of its algorithm.

        Raises `TokenInvalidError` for one that is not in the set, `LoginUnavailableError` where the set was
        never had; once it was, it serves on while its source is away.
        """
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            raise invalid("alg or kid in its header is no text")
        keys = await self._document.get(lambda known: _lookup(known, kid, algorithm) is not None)
        found = _lookup(keys, kid, algorithm)
        if found is None:
            raise invalid(f"no key of the set has its kid and alg ({str(kid)[:100]!r}, {algorithm[:10]!r})")
        return found


def _lookup(keys: Keys, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    if kid is not None:
        return keys.get((kid, algorithm))
    fitting = [key for (_, name), key in keys.items() if name == algorithm]
    return fitting[0] if len(fitting) == 1 else None  # OpenID Connect Core 1.0, section 10.1


def _parse(document: bytes) -> Keys:
    """The usable keys; raises `ValueError` if this is not a key set."""
    check_json(document)
    content = msgspec.json.decode(document)  # its error is a ValueError
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a key set")
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("kid"), str):
            for algorithm in _algorithms(entry):
                try:
                    keys[entry["kid"], algorithm] = _usable(entry, algorithm)
                except Exception as error:  # noqa: BLE001 (whatever is in it: the other keys are good)
                    log.warning("signing_key_ignored", kid=entry["kid"], error=type(error).__name__)
    return keys


def _algorithms(entry: dict[str, Any]) -> tuple[str, ...]:
    kind = entry.get("crv") if entry.get("kty") == "EC" else entry.get("kty")
    allowed = ALGORITHMS.get(str(kind), ())
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return ()
    return tuple(name for name in allowed if entry.get("alg", name) == name)


def _usable(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK:
    key = jwt.PyJWK(entry, algorithm=algorithm)
    if entry["kty"] == "RSA" and key.key.key_size < MINIMUM_RSA_BITS:
        raise ValueError("key too short")
    return key
