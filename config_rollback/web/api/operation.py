"""What a route of the API takes and gives, declared at its handler: `openapi.py` reads it from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from config_rollback.errors import ConfigRollbackError

Caller = Literal["ops", "service", "alertmanager", "anyone"]
"""Whose bearer token the call needs."""

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """One call. `query` and `headers` hold a JSON schema per parameter; those in `required` must be given.

    `data` is the type of `data` in the answer (None: not JSON); `more` are fields beside it.
    """

    caller: Caller
    data: Any
    status: int = 200
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    body: type[BaseModel] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    media_type: str = "text/plain"
    """Of an answer that is not JSON."""
    errors: tuple[type[ConfigRollbackError], ...] = ()
    other: Mapping[int, str] = field(default_factory=dict)
    """Further answers without a body, by status."""


def operation(caller: Caller, data: Any, **declared: Any) -> Callable[[Handler], Handler]:
    """Declares the handler's operation."""

    def attach(handler: Handler) -> Handler:
        handler.operation = Operation(caller, data, **declared)  # type: ignore[attr-defined]
        return handler

    return attach
