"""How often people may call: by user, then by role, then all together, each in a moving window.

The order matters: what a user's own limit refuses uses nothing of the others' share. Configuration delivery
and Alertmanager's webhook are not limited: they must go on whatever people do.
"""

from __future__ import annotations

import hashlib
import json
import math
import time

import structlog
from anyio.to_thread import run_sync
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from config_rollback.attempts import Actor
from config_rollback.errors import RateLimitedError, RateLimiterUnavailableError
from config_rollback.settings import Settings

USER_SLOTS = 65_536
"""Users share this many keys, so that made-up subjects cannot fill the memory."""
ROLES = frozenset({"ops", "support", "user"})
"""Roles with a limit of their own; every other name counts as one role."""
STORE_TIMEOUT_SECONDS = 0.5

_NAMESPACE = "driftback"

log = structlog.get_logger(__name__)


class RateLimits:
    """Counts calls in this process, or in a Redis that several replicas share."""

    def __init__(self, settings: Settings) -> None:
        url = settings.rate_limit_store.get_secret_value()
        options: dict[str, float | str | bool] = {"wrap_exceptions": True}
        if not url.startswith("memory:"):
            options |= dict.fromkeys(("socket_timeout", "socket_connect_timeout"), STORE_TIMEOUT_SECONDS)
        self._storage = storage_from_string(url, **options)
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._user = parse(settings.rate_limit_user)
        self._role = parse(settings.rate_limit_role)
        self._global = parse(settings.rate_limit_global)

    async def check(self, actor: Actor) -> None:
        """Counts a call. Raises `RateLimitedError`, or `RateLimiterUnavailableError` with the store away."""
        if isinstance(self._storage, MemoryStorage):
            self._count(actor)
        else:
            await run_sync(self._count, actor)

    def _count(self, actor: Actor) -> None:
        keys = (
            ("user", self._user, _slot(actor)),
            ("role", self._role, actor.role if actor.role in ROLES else "other"),
            ("global", self._global, "all"),
        )
        try:
            for name, limit, key in keys:
                if not self._limiter.hit(limit, _NAMESPACE, name, key):
                    raise RateLimitedError(
                        "too many requests; try again later",
                        limit=name,
                        retry_after=self._wait(limit, _NAMESPACE, name, key),
                    )
        except StorageError as error:
            log.warning("rate_limiter_unavailable", error=type(error.storage_error).__name__)
            raise RateLimiterUnavailableError("calls cannot be counted at the moment") from error

    def _wait(self, limit: RateLimitItem, *key: str) -> int:
        """Whole seconds until the oldest call leaves the window, at least 1."""
        reset = self._limiter.get_window_stats(limit, *key).reset_time
        return min(max(math.ceil(reset - time.time()), 1), limit.get_expiry())


def _slot(actor: Actor) -> str:
    digest = hashlib.sha256(json.dumps(actor.identity).encode()).digest()
    return str(int.from_bytes(digest[:8], "big") % USER_SLOTS)
