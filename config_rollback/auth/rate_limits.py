"""How often people may call: by user, then by role, then all together, each in a moving window.

The order matters: what a user's own limit refuses uses nothing of the others' share. Configuration delivery
and Alertmanager's webhook are not limited: they must go on whatever people do.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterable
from functools import partial

import structlog
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from config_rollback.errors import RateLimitedError
from config_rollback.outgoing.calls import Calls, NoThreadError
from config_rollback.rollback.attempts import Actor
from config_rollback.settings import Settings

USER_SLOTS = 65_536
"""Users share this many keys, so that made-up subjects cannot fill the memory."""
ROLES = frozenset({"ops", "support", "user"})
"""Roles with a limit of their own; every other name counts as one role."""
STORE_TIMEOUT_SECONDS = 0.5
STORE_THREADS = 4
RETRY_SECONDS = 5.0
"""How often the service tries a store again that cannot be reached, in seconds."""
SET_BACK_SECONDS = 1.0
"""A clock that is set back by more makes all counts begin again: else it would keep people out as long."""

_NAMESPACE = "driftback"

Key = tuple[str, RateLimitItem, str]
"""The name of a limit, the limit, and whose calls are counted together."""

log = structlog.get_logger(__name__)


class RateLimits:
    """Counts calls in this process, or in a Redis that several replicas share.

    While the Redis is away each replica counts for itself: nobody is kept from rolling back.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.rate_limit_store.get_secret_value()
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._shared: MovingWindowRateLimiter | None = None
        if not url.startswith("memory:"):
            options: dict[str, float | str | bool] = {"wrap_exceptions": True, "key_prefix": _NAMESPACE}
            options |= dict.fromkeys(("socket_timeout", "socket_connect_timeout"), STORE_TIMEOUT_SECONDS)
            self._shared = MovingWindowRateLimiter(storage_from_string(url, **options))
        self._calls = Calls(STORE_THREADS)
        self._looking: asyncio.Task[None] | None = None
        self._latest = 0.0
        self._is_to_forget = False
        self.store_up = True
        """Whether calls are counted in the configured store."""
        self._user = parse(settings.rate_limit_user)
        self._role = parse(settings.rate_limit_role)
        self._global = parse(settings.rate_limit_global)

    async def check_user(self, actor: Actor) -> None:
        """Counts a call of a person. Raises `RateLimitedError`."""
        await self._check(("user", self._user, _slot(actor)))

    async def check_role(self, role: str) -> None:
        """Counts a call of a role, and of all. Raises `RateLimitedError`."""
        of_role = ("role", self._role, role if role in ROLES else "other")
        await self._check(of_role, ("global", self._global, "all"))

    async def _check(self, *keys: Key) -> None:
        now = time.time()  # the clock of `limits`
        is_set_back, self._latest = now < self._latest - SET_BACK_SECONDS, now
        if is_set_back:
            log.warning("rate_limits_begin_again", reason="the clock was set back")
            self._own = MovingWindowRateLimiter(MemoryStorage())
            self._is_to_forget = True
        if self._shared is not None and self.store_up:
            count = partial(self._count_shared, self._shared, keys)
            try:
                await self._calls.run(count, STORE_TIMEOUT_SECONDS)
            except RateLimitedError:
                raise
            except NoThreadError:
                pass  # the store may well be there
            except Exception as error:  # noqa: BLE001 (whatever the store answers)
                self._lose(self._shared, error)
            else:
                return
        _count(self._own, keys)

    def _count_shared(self, shared: MovingWindowRateLimiter, keys: Iterable[Key]) -> None:
        if self._is_to_forget:
            shared.storage.reset()
            self._is_to_forget = False  # not before: the store may be away
        _count(shared, keys)

    def _lose(self, shared: MovingWindowRateLimiter, error: Exception) -> None:
        if self.store_up:
            self.store_up = False
            cause = error.storage_error if isinstance(error, StorageError) else error
            log.warning("rate_limit_store_lost", error=type(cause).__name__)
            self._looking = asyncio.create_task(self._look_for(shared))

    async def _look_for(self, shared: MovingWindowRateLimiter) -> None:
        """Until the store counts again."""
        hit = partial(shared.hit, self._global, _NAMESPACE, "store", "up")
        while not self.store_up:
            await asyncio.sleep(RETRY_SECONDS)
            with contextlib.suppress(Exception):  # whatever it answers: it is asked again
                await self._calls.run(hit, STORE_TIMEOUT_SECONDS)
                self.store_up = True
        log.info("rate_limit_store_found")


def _count(limiter: MovingWindowRateLimiter, keys: Iterable[Key]) -> None:
    for name, limit, key in keys:
        if not limiter.hit(limit, _NAMESPACE, name, key):
            raise RateLimitedError(
                "too many requests; try again later",
                limit=name,
                retry_after=_wait(limiter, limit, _NAMESPACE, name, key),
            )


def _wait(limiter: MovingWindowRateLimiter, limit: RateLimitItem, *key: str) -> int:
    """Whole seconds until the oldest call leaves the window, at least 1."""
    reset = limiter.get_window_stats(limit, *key).reset_time
    return min(max(math.ceil(reset - time.time()), 1), limit.get_expiry())


def _slot(actor: Actor) -> str:
    digest = hashlib.sha256(json.dumps(actor.identity).encode()).digest()
    return str(int.from_bytes(digest[:8], "big") % USER_SLOTS)
