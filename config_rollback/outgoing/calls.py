"""Calls to other services: in threads of their own, with a bounded wait, and a pause after a failure.

anyio's own threads are for the database alone. Whatever hangs here, a rollback waits for none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from config_rollback.clock import Clock
from config_rollback.errors import LoginUnavailableError

COOLDOWN_SECONDS = 5.0
"""How long calls are refused at once after one that was not answered in time."""
DOCUMENT_COOLDOWN = timedelta(minutes=1)
"""How soon after one reading the next may follow: made-up key ids must not become a flood of fetches."""
FIRST_COOLDOWN = timedelta(seconds=5)
"""The same while none was ever read."""
DOCUMENT_SECONDS = 3.0
"""How long all callers together wait for a value; later callers go on without it."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class NoThreadError(TimeoutError):
    """A call did not begin: no thread was free in time."""


class Calls:
    """A few threads for calls to one service, `threads` at most, however long a call hangs."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._closed_until = 0.0

    async def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """The result of `work`. Raises `TimeoutError` if that takes longer, and for a while afterwards.

        Raises `NoThreadError` if every thread is busy for so long: that says nothing of the service.
        """
        now = asyncio.get_running_loop().time
        if now() < self._closed_until:
            raise TimeoutError
        deadline = now() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise NoThreadError from None
        call = asyncio.create_task(_in_a_thread(work))
        call.add_done_callback(self._ended)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(call)
        except TimeoutError:
            self._closed_until = now() + COOLDOWN_SECONDS
            raise

    def _ended(self, call: asyncio.Task[Any]) -> None:
        # Not when the caller gave up: the thread was busy until now.
        self._free.release()
        if not call.cancelled():
            call.exception()  # otherwise asyncio would log an exception that nobody reads


class Document(Generic[Result]):
    """What another service published, parsed by `read`: kept, and read again once it is older than `age`.

    One thread reads at a time. Whatever `read` raises is logged.
    """

    def __init__(self, name: str, read: Callable[[], Result], clock: Clock, age: timedelta) -> None:
        self._name = name
        self._read = read
        self._clock = clock
        self._age = age
        self._content: Result | None = None
        self._read_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self._wait_until = 0.0

    async def get(self, enough: Callable[[Result], bool] = lambda _: True) -> Result:
        """The newest known content. Raises `LoginUnavailableError` if it was never read.

        The content is read again if it is old or not `enough`. A caller waits for that only if the content is
        missing, not `enough`, or older than twice its age; and only once in an outage.
        """
        lacks = self._content is None or not enough(self._content)
        failed = self._read_at != self._tried_at
        if lacks or self._is_due(self._age, self._read_at):
            self._begin_to_read()
        if self._reading is not None and (
            lacks or (not failed and self._is_due(2 * self._age, self._read_at))
        ):
            left = self._wait_until - asyncio.get_running_loop().time()
            await asyncio.wait({self._reading}, timeout=max(left, 0.0))
        if self._content is None:
            raise LoginUnavailableError("the login provider cannot be reached; try again")
        return self._content

    def _is_due(self, age: timedelta, since: datetime | None) -> bool:
        return since is None or not timedelta(0) <= self._clock() - since < age

    def _begin_to_read(self) -> None:
        reads = self._reading is not None and not self._reading.done()
        cooldown = FIRST_COOLDOWN if self._content is None else DOCUMENT_COOLDOWN
        if not reads and self._is_due(cooldown, self._tried_at):
            self._tried_at = self._clock()
            self._wait_until = asyncio.get_running_loop().time() + DOCUMENT_SECONDS
            self._reading = asyncio.create_task(self._read_once(self._tried_at))

    async def _read_once(self, at: datetime) -> None:
        try:
            self._content = await _in_a_thread(self._read)
        except Exception as error:  # noqa: BLE001 (whatever the response was, the known content stays in use)
            log.warning("document_unavailable", document=self._name, error=type(error).__name__)
        else:
            self._read_at = at


async def _in_a_thread(work: Callable[[], Result]) -> Result:
    return await run_sync(work, limiter=CapacityLimiter(1))  # a separate limiter, so nobody else waits for it
