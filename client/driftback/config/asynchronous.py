"""`ConfigClient` for asyncio.

async with AsyncConfigClient("http://127.0.0.1:9811", ..., cache_dir=Path("cache")) as configs:
    await configs.wait_ready(10)
    configs.current.config["system_prompt"]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from driftback.config.client import ConfigClient
from driftback.config.last_known_good import Active

READY_SECONDS = 0.05
"""How often `wait_ready` looks."""


class AsyncConfigClient:
    """`ConfigClient` for asyncio: nothing blocks the event loop, and `on_change` runs in it.

    `on_change` may be a coroutine function; `current` changes when it has ended. The other arguments are
    those of `ConfigClient`.
    """

    def __init__(
        self,
        url: str,
        *,
        on_change: Callable[[Active], Awaitable[None] | None] | None = None,
        **arguments: Any,
    ) -> None:
        self._on_change = on_change
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = ConfigClient(url, on_change=self._hand_over if on_change else None, **arguments)

    @property
    def current(self) -> Active | None:
        """What to serve now; None as long as nothing is known."""
        return self._client.current

    async def start(self) -> None:
        """Loads the cache and begins to follow. Never waits for the network."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._client.start)

    async def wait_ready(self, timeout: float) -> Active:
        """The configuration as soon as one is known; raises `NotReadyError` after `timeout` seconds."""
        # Not in a thread, which nothing can cancel and asyncio waits for at its end; and the client's thread
        # cannot tell a loop that may be closed by then.
        deadline = time.monotonic() + timeout
        while self._client.current is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(READY_SECONDS)
        return self._client._active_after(timeout)

    async def close(self) -> None:
        """Stops following and interrupts the open request; `current` stays. Not for `on_change` to call."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> AsyncConfigClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _hand_over(self, active: Active) -> None:
        """In the client's thread: has the event loop run `on_change`, and waits for it."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._tell(active), self._loop).result()

    async def _tell(self, active: Active) -> None:
        told = self._on_change(active) if self._on_change else None
        if told is not None:
            await told
