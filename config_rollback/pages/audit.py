"""`/audit`: who did what, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.http import number_of, query_of
from config_rollback.models import AuditRow
from config_rollback.pages.render import page
from config_rollback.pages.session import require_login
from config_rollback.services import services

PAGE = 50


async def show(request: Request) -> Response:
    """The page; `before` continues an earlier one, `persona` and `actor` filter."""
    login = await require_login(request)
    query = query_of(request, "before", "persona", "actor")
    before = number_of(query["before"], "before") if "before" in query else None
    persona, actor = query.get("persona") or None, query.get("actor") or None

    def read() -> Sequence[AuditRow]:
        with services(request).store.read() as transaction:
            return transaction.audit_rows(PAGE + 1, before, persona, actor)

    rows = await run_sync(read)
    older = None
    if len(rows) > PAGE:
        given = {"persona": persona, "actor": actor, "before": str(rows[PAGE - 1].audit_id)}
        older = "/audit?" + urlencode({name: value for name, value in given.items() if value})
    return page(
        request, "audit.html", login, rows=rows[:PAGE], older=older, persona=persona or "", actor=actor or ""
    )


routes = [Route("/audit", show)]
