"""Times one message and tells from how it ends what it counts as."""

import json
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from exporter.catalogue import OTHER

_log = logging.getLogger("exporter.client")

_BY_STATUS: Final = {408: "timeout", 504: "timeout", 429: "rate_limited"}
_BY_NAME: Final = (
    ("Timeout", "timeout"),
    ("RateLimit", "rate_limited"),
    ("TooManyRequests", "rate_limited"),
    ("ContentFilter", "content_filter"),
    ("ContentPolicy", "content_filter"),
    ("ValidationError", "invalid_output"),
    ("ParseError", "invalid_output"),
    ("APIError", "provider_error"),
    ("ConnectError", "provider_error"),
)
"""Parts of class names, for libraries that are not imported here: openai, anthropic, httpx, pydantic, ..."""


class ServedConfig(Protocol):
    """A configuration as a message was answered with, such as `ConfigClient.current`."""

    @property
    def persona(self) -> str:
        """Name of the persona."""

    @property
    def version(self) -> int:
        """Version of its configuration."""


def classify(error: BaseException) -> str:
    """The reason, one of `catalogue.REASONS`, that an exception of a model call stands for.

    In this order: Python's own TimeoutError, JSONDecodeError; the HTTP status in `status_code` or
    `response.status_code`; the names of the exception's classes; ConnectionError. Else `other`.
    """
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, json.JSONDecodeError):
        return "invalid_output"
    status = getattr(error, "status_code", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and status in _BY_STATUS:
        return _BY_STATUS[status]
    names = [kind.__name__ for kind in type(error).__mro__]
    for part, reason in _BY_NAME:
        if any(part in name for name in names):
            return reason
    if isinstance(status, int) and status >= 400:
        return "provider_error"
    return "provider_error" if isinstance(error, ConnectionError) or "ConnectionError" in names else OTHER


class Message:
    """One message from its beginning to its end, as `with` or `async with`; made by `Recorder.message`.

    An exception that leaves the block makes the message an LLM error and goes on to the caller unchanged.
    What is no `Exception` (a cancelled task, Ctrl-C) cut the message off: it did not finish and is not
    counted.
    """

    def __init__(self, record: Callable[..., None], labels: dict[str, Any]) -> None:
        self._record = record
        self._labels = labels
        self._details: dict[str, Any] = {}
        self._outcome = "ok"
        self._begun = time.perf_counter()

    def first_token(self) -> None:
        """The first token of a streamed answer is here; later calls change nothing."""
        self._details.setdefault("ttft_ms", self._elapsed_ms())

    def tokens(self, *, input: int | None = None, output: int | None = None) -> None:  # noqa: A002
        """Say how many tokens went in and came out, at once or one by one. The last number of each counts."""
        if input is not None:
            self._details["input_tokens"] = input
        if output is not None:
            self._details["output_tokens"] = output

    def out_of_scope(self) -> None:
        """The answer refused the user's topic, or should have."""
        self._outcome = "out_of_scope"
        self._details.pop("reason", None)  # `failed` was said before: what is said last decides

    def failed(self, reason: str = OTHER) -> None:
        """The model failed without an exception, such as by a finish reason `content_filter`."""
        self._outcome = "llm_error"
        self._details["reason"] = reason

    def __enter__(self) -> Self:
        """Begin to time."""
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the message."""
        latency_ms = self._elapsed_ms()
        if error is not None:
            if not isinstance(error, Exception):
                return
            try:
                reason = classify(error)
            except Exception as unreadable:  # noqa: BLE001 (an attribute of the caller's exception may raise)
                _log.debug("an exception could not be classified: %r", unreadable)
                reason = OTHER
            self.failed(reason)
        self._record(**self._labels, latency_ms=latency_ms, outcome=self._outcome, **self._details)

    async def __aenter__(self) -> Self:
        """Begin to time."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the message; nothing is awaited."""
        self.__exit__(kind, error, trace)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._begun) * 1000.0
