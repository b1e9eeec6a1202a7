"""Times one message and tells from how it ends what it counts as."""

import json
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from driftback.contract import OTHER

_log = logging.getLogger("driftback")
_Message = TypeVar("_Message", bound="Message")  # Python 3.10 has no `Self`

_BY_STATUS: Final = {408: "timeout", 504: "timeout", 429: "rate_limited"}
_BY_WORD: Final = (
    ("contentfilter", "content_filter"),
    ("contentpolicy", "content_filter"),
    ("responsibleaipolicy", "content_filter"),
    ("timeout", "timeout"),
    ("ratelimit", "rate_limited"),
    ("toomanyrequests", "rate_limited"),
    ("throttl", "rate_limited"),
    ("requestlimitexceeded", "rate_limited"),
    ("quotaexceeded", "rate_limited"),
    ("validationerror", "invalid_output"),
    ("parseerror", "invalid_output"),
    ("apierror", "provider_error"),
    ("connecterror", "provider_error"),
    ("connectionerror", "provider_error"),
    ("transporterror", "provider_error"),
    ("httpclienterror", "provider_error"),
    ("payloaderror", "provider_error"),
    ("chunkedencodingerror", "provider_error"),
    ("incompleteread", "provider_error"),
    ("gaierror", "provider_error"),
)
"""Parts of class names and codes, without case and underscores, for libraries that are not imported here:
openai, anthropic, azure, botocore, httpx, aiohttp, requests, pydantic, ..."""


class ServedConfig(Protocol):
    """A configuration as a message was answered with, such as `ConfigClient.current`."""

    @property
    def persona(self) -> str:
        """Name of the persona."""

    @property
    def version(self) -> int:
        """Version of its configuration."""


def classify(error: BaseException) -> str:
    """The reason, one of `contract.REASONS`, that an exception of a model call stands for.

    In this order: of a group the first of its exceptions that is known, and of a urllib.error.URLError its
    `reason`; Python's own TimeoutError, JSONDecodeError; an HTTP status 408, 429 or 504; the provider's code
    and the names of the exception's classes; any other HTTP status of 400 or above. Else `other`.
    """
    # Python 3.10 has no exception groups, and backports of them are classes of their own.
    group = getattr(error, "exceptions", None)
    for cause in group if isinstance(group, tuple) else [getattr(error, "reason", None)]:
        if isinstance(cause, BaseException) and (reason := classify(cause)) != OTHER:
            return reason
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, json.JSONDecodeError):
        return "invalid_output"
    code = None if hasattr(error, "status") else getattr(error, "code", None)  # aiohttp's warns of its `code`
    status = _status(error, code)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    words = [*_codes(error, code), *(kind.__name__ for kind in type(error).__mro__)]
    told = " ".join(words).replace("_", "").lower()
    for part, reason in _BY_WORD:
        if part in told:
            return reason
    return "provider_error" if 400 <= status < 600 else OTHER


def _status(error: BaseException, code: object) -> int:
    """The HTTP status, or 0: of openai, aiohttp, urllib, httpx and requests, botocore."""
    response = getattr(error, "response", None)
    found = (
        getattr(error, "status_code", None),
        getattr(error, "status", None),
        code,
        getattr(response, "status_code", None),
        _member(response, "ResponseMetadata", "HTTPStatusCode"),
    )
    return next((status for status in found if isinstance(status, int)), 0)


def _codes(error: BaseException, code: object) -> list[str]:
    """What the provider itself calls the error: of openai, azure-core, botocore."""
    found = (
        code,
        getattr(getattr(error, "error", None), "code", None),
        _member(getattr(error, "body", None), "code"),
        _member(getattr(error, "body", None), "error", "code"),
        _member(getattr(error, "response", None), "Error", "Code"),
    )
    return [one for one in found if isinstance(one, str)]


def _member(value: object, *path: str) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


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

    def __enter__(self: _Message) -> _Message:
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

    async def __aenter__(self: _Message) -> _Message:
        """Begin to time."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the message; nothing is awaited."""
        self.__exit__(kind, error, trace)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._begun) * 1000.0
