"""Work for callers who proved nothing: one run at a time, and everybody who waits gets its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from anyio.to_thread import run_sync
from starlette.requests import Request

from config_rollback.errors import TooManyRequestsError
from config_rollback.web.http import while_connected

MAX_WAITING = 32
"""Requests that wait for one kind of work; one more is refused."""

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Runs `work` in one of the threads that a rollback needs, and never takes a second one."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._waiting = 0
        self._run: asyncio.Task[Result] | None = None

    async def result(self, request: Request) -> Result:
        """The result or the error of the running call; starts one if none is running.

        Raises `TooManyRequestsError` if `MAX_WAITING` requests wait already, and `ClientDisconnect` where
        the client of this one goes.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyRequestsError(
                f"{MAX_WAITING} requests already wait for this answer: try again later"
            )
        self._waiting += 1
        try:
            if self._run is None or self._run.done():
                self._run = asyncio.create_task(run_sync(self._work))
                self._run.add_done_callback(_ended)
            return await while_connected(request, _of(self._run))
        finally:
            self._waiting -= 1


async def _of(run: asyncio.Task[Result]) -> Result:
    return await asyncio.shield(run)  # for the others go on waiting


def _ended(run: asyncio.Task[Any]) -> None:
    if not run.cancelled():
        run.exception()  # otherwise asyncio would log an exception that nobody waits for any more
