"""What a route of the API takes and gives, declared at its handler; `/openapi.json` is made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from config_rollback.errors import ConfigRollbackError
from config_rollback.web.query import Query

Caller = Literal["ops", "service", "alertmanager", "anyone"]
"""Whose bearer token the call needs."""

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """One call. An act needs the header `Idempotency-Key`.

    `data` is the type of `data` in the answer (None: not JSON); `more` are fields beside it.
    """

    caller: Caller
    data: Any
    status: int = 200
    is_act: bool = False
    query: type[Query] = Query
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """A JSON schema for each header that may be given."""
    body: type[BaseModel] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    media_type: str = "text/plain"
    """Of an answer that is not JSON."""
    errors: tuple[type[ConfigRollbackError], ...] = ()
    other: Mapping[int, str] = field(default_factory=dict)
    """Further answers without a body, by status."""
    is_quiet: bool = False
    """A request is not worth a line of the log unless it fails, for it comes without end."""


def operation(caller: Caller, data: Any, **declared: Any) -> Callable[[Handler], Handler]:
    """Declares the handler's operation."""

    def attach(handler: Handler) -> Handler:
        handler.operation = Operation(caller, data, **declared)  # type: ignore[attr-defined]
        return handler

    return attach


def operation_of(endpoint: object) -> Operation | None:
    """What the handler of a route declares; None for a page."""
    found = getattr(endpoint, "operation", None)
    return found if isinstance(found, Operation) else None
