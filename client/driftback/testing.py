"""Fakes for the tests of your own service. They ask no server and start no thread.

recorder = FakeRecorder()
configs = FakeConfigClient({"allowed_topics": ["orders"]}, persona="concierge")
app = create_app(recorder, configs)  # your service
...
assert [message.outcome for message in recorder.messages] == ["out_of_scope"]
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from driftback.config.asynchronous import AsyncConfigClient
from driftback.config.client import ConfigClient
from driftback.config.last_known_good import Active
from driftback.recorder.recorder import Recorder
from driftback.recorder.sender import Counts

_log = logging.getLogger("driftback")

_NOBODY = "http://127.0.0.1:1"
_TOKEN = "fake"  # noqa: S105 (it opens nothing)


class FakeMessage(NamedTuple):
    """A message as `Recorder.record` was told of it. Times are in milliseconds."""

    journey: str
    persona: str
    config_version: str
    latency_ms: float
    outcome: str = "ok"
    reason: str | None = None
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class FakeRecorder(Recorder):
    """A `Recorder` that keeps what it was told.

    It raises ValueError for what a real one would drop or count as `other`: a test is to see that.
    """

    def __init__(self) -> None:
        self._urls, self._token = [_NOBODY], _TOKEN
        self._begin()
        self.messages: list[FakeMessage] = []
        """Finished messages in their order."""
        self.declared: set[tuple[str, str, str]] = set()
        """Label sets: journey, persona, version."""

    def record(self, *, config_version: str | int, **details: Any) -> None:
        """Keep a message. The arguments are those of `Recorder.record`."""
        message = FakeMessage(config_version=str(config_version), **details)
        if self._closing:
            raise ValueError("a message came after close()")
        self._buffer.make_cell(
            (message.journey, message.persona, config_version, message.outcome, message.reason)
        )
        super().record(config_version=config_version, **details)
        self.messages.append(message)

    def declare(self, *, journey: str, persona: str, config_version: str | int) -> None:
        """Keep a label set."""
        self.declared.add(self._buffer.declare(journey, persona, config_version))

    def counts(self) -> Counts:
        """Every message counts as acknowledged."""
        return Counts(acknowledged=len(self.messages), waiting=0, in_doubt=0, dropped=0)

    def flush(self, timeout: float = 5.0) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def close(self, timeout: float = 5.0) -> bool:  # noqa: ARG002
        """Take no more messages."""
        self._closing = True
        return True

    def _drop(self, why: str, detail: object) -> None:
        raise ValueError(f"a message would be dropped: {why}: {detail!r}")


class FakeConfigClient(ConfigClient):
    """A `ConfigClient` that serves version 1 with `config`, and then what the test publishes.

    Without `config` it serves nothing at first.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        *,
        persona: str,
        on_change: Callable[[Active], None] | None = None,
    ) -> None:
        super().__init__(_NOBODY, token=_TOKEN, persona=persona, cache_dir=Path(), on_change=on_change)
        self._first = config

    def start(self) -> None:
        """Serve the first version."""
        if self._first is not None and self._current is None:
            self.publish(self._first)

    def publish(self, config: dict[str, Any]) -> Active:
        """Serve the next version: `on_change` is called, then `current` changes. Returns it."""
        active = self._next(config)
        self._serve(active)
        self._ready.set()
        return active

    def _next(self, config: dict[str, Any]) -> Active:
        return Active(self._persona, 1 if self._current is None else self._current.version + 1, config)

    def close(self) -> None:
        """Do nothing."""


class FakeAsyncConfigClient(AsyncConfigClient):
    """`FakeConfigClient` for asyncio."""

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        *,
        persona: str,
        on_change: Callable[[Active], Awaitable[None] | None] | None = None,
    ) -> None:
        self._on_change = on_change
        self._client = self._fake = FakeConfigClient(persona=persona)
        self._first = config

    async def start(self) -> None:
        """Serve the first version."""
        if self._first is not None and self.current is None:
            await self.publish(self._first)

    async def publish(self, config: dict[str, Any]) -> Active:
        """Serve the next version: `on_change` has ended before `current` changes. Returns it."""
        try:
            await self._tell(self._fake._next(config))
        except Exception:  # noqa: BLE001 (the service's code must not stop the client)
            _log.exception("on_change failed")
        return self._fake.publish(config)

    async def close(self) -> None:
        """Do nothing."""
