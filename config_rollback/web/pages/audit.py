"""`/audit`: who did what, newest first."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from config_rollback.audit.chain import ACTIONS, STATUSES
from config_rollback.web.audit_filter import AuditFilter
from config_rollback.web.dependencies import read
from config_rollback.web.pages.session import require_login
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.query import Number, parse

PAGE = 50
CHOICES = {"action": ACTIONS, "status": STATUSES}


class AuditPage(AuditFilter):
    """`before` continues an earlier page."""

    before: Number | None = None


async def show(visit: Visit) -> Response:
    """The page; `before` continues an earlier one, the others filter."""
    await require_login(visit)
    # A browser sends the fields that were left empty too.
    query = parse([pair for pair in visit.request.query_params.multi_items() if pair[1]], AuditPage)
    wanted = query.columns()
    rows = await read(
        visit.request, lambda transaction: transaction.audit_rows(PAGE + 1, query.before, **wanted)
    )
    older = None
    if len(rows) > PAGE:
        older = "/audit?" + urlencode(wanted | {"before": str(rows[PAGE - 1].audit_id)})
    return page(visit, "audit.html", rows=rows[:PAGE], older=older, wanted=wanted, choices=CHOICES)


routes = [page_route("/audit", show)]
