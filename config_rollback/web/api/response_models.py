"""Response models of the API, as the contract names them."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict


class Persona(TypedDict):
    """A persona and what it serves; `action`, `from_version` and `audit_id` say how it came to that."""

    persona: str
    active_version: int
    action: Literal["publish", "rollback"]
    from_version: int | None
    activated_at: str
    activated_by: str
    audit_id: int
    rollback_to: int | None


class ShutOut(TypedDict):
    """A blocked person."""

    issuer: str
    subject: str
    since: str


class Version(TypedDict):
    """A version without its configuration."""

    version: int
    content_hash: str
    created_at: str
    created_by: str
    note: str
    active: bool


class VersionWithConfig(Version):
    """A version."""

    config: dict[str, Any]


class Change(TypedDict):
    """A field that differs, named by its path; a side is null if it does not have the field."""

    field: str
    before: Any
    after: Any
    kind: Literal["changed", "removed", "added"]


Diff = TypedDict("Diff", {"persona": str, "from": int, "to": int, "changes": list[Change]})


class Received(TypedDict):
    """How many alerts a message held, and how many of them were new."""

    received: int
    new: int


class ActiveConfig(TypedDict):
    """What a service is to serve."""

    persona: str
    version: int
    content_hash: str
    activated_at: str
    config: dict[str, Any]


class Kpis(TypedDict):
    """The four KPI by name."""

    window: str
    aggregation_scope: str
    filters: dict[str, str]
    generated_at: str
    coverage: float | None
    kpis: dict[str, dict[str, Any]]
