"""Public keys of another issuer (JWKS, RFC 7517), cached, and fetched again no more than once a minute."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import requests
import structlog

from config_rollback.auth.claims import invalid
from config_rollback.clock import Clock
from config_rollback.errors import LoginUnavailableError

REFRESH = timedelta(minutes=10)
"""How old the keys may get before they are looked for again."""
COOLDOWN = timedelta(minutes=1)
"""How soon after one attempt the next may follow: made-up key ids must not become a flood of fetches."""
FETCH_SECONDS = 3.0
MAX_DOCUMENT_BYTES = 1_048_576
MINIMUM_RSA_BITS = 2048

ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384", "RS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
}
"""What a key of each kind may verify. No HS: a public key must never be taken for a shared secret."""

_KID = re.compile(r"[A-Za-z0-9_=.:+-]{1,200}")

log = structlog.get_logger(__name__)

Keys = Mapping[tuple[str, str], jwt.PyJWK]


class KeySet:
    """The keys of one document, by key id and algorithm. `read` returns the document."""

    def __init__(self, read: Callable[[], bytes], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Keys = {}
        self._loaded_at: datetime | None = None
        self._tried_at: datetime | None = None

    def find(self, kid: object, algorithm: object) -> jwt.PyJWK:
        """The key that the header of a token names; without an id, the only one of its algorithm.

        Raises `TokenInvalidError` for one that is not in the set, `LoginUnavailableError` where the set was
        never had; once it was, it serves on while its source is away.
        """
        if not isinstance(algorithm, str) or not (
            kid is None or (isinstance(kid, str) and _KID.fullmatch(kid))
        ):
            raise invalid()
        known = self._lookup(kid, algorithm)
        if known is None or self._due(REFRESH, self._loaded_at):
            self._refresh(wait=known is None)
        if self._loaded_at is None:
            raise LoginUnavailableError("the keys that verify logins cannot be read at the moment")
        found = self._lookup(kid, algorithm)
        if found is None:
            raise invalid()
        return found

    def _lookup(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        keys = self._keys
        if kid is not None:
            return keys.get((kid, algorithm))
        fitting = [key for (_, name), key in keys.items() if name == algorithm]
        return fitting[0] if len(fitting) == 1 else None  # OpenID Connect Core 1.0, section 10.1

    def _due(self, age: timedelta, since: datetime | None) -> bool:
        return since is None or self._clock() - since >= age

    def _refresh(self, *, wait: bool) -> None:
        if not self._lock.acquire(blocking=wait):
            return  # another thread is at it, and there is a key to go on with
        try:
            if not self._due(COOLDOWN, self._tried_at):
                return
            self._tried_at = self._clock()
            self._keys = _parse(self._read())
            self._loaded_at = self._clock()
        except (OSError, requests.RequestException, ValueError) as error:
            log.warning("signing_keys_unavailable", error=type(error).__name__)
        finally:
            self._lock.release()


def from_file(path: Path) -> Callable[[], bytes]:
    """Reads a file each time."""
    return path.read_bytes


def from_url(url: str) -> Callable[[], bytes]:
    """Fetches a document each time; follows no redirect."""
    return lambda: fetch(url)


def fetch(url: str) -> bytes:
    """A small document. Raises `requests.RequestException`, or `ValueError` for a large one."""
    with requests.get(url, timeout=FETCH_SECONDS, allow_redirects=False, stream=True) as answer:
        answer.raise_for_status()
        if answer.is_redirect:
            raise ValueError("a redirect")
        body = answer.raw.read(MAX_DOCUMENT_BYTES + 1, decode_content=True)
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError("too large")
    return bytes(body)


def _parse(document: bytes) -> Keys:
    """The usable keys; raises `ValueError` where it is no key set at all."""
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
                except (jwt.PyJWTError, ValueError) as error:
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
