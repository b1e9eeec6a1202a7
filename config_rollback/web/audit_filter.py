"""Which audit rows: what the API and the page filter by."""

from __future__ import annotations

from config_rollback.audit.chain import Action, Status
from config_rollback.web.query import Query, Text


class AuditFilter(Query):
    """By column; None is for every value."""

    persona: Text | None = None
    actor: Text | None = None
    action: Action | None = None
    status: Status | None = None

    def columns(self) -> dict[str, str]:
        """The columns that are filtered by."""
        found: dict[str, str] = self.model_dump(include=set(AuditFilter.model_fields), exclude_none=True)
        return found
