"""`/audit`: who did what, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from anyio.to_thread import run_sync
from starlette.responses import Response

from config_rollback.audit.chain import ACTIONS, STATUSES
from config_rollback.errors import InvalidRequestError
from config_rollback.storage.models import AuditRow
from config_rollback.web.http import number_of, query_of
from config_rollback.web.pages.session import require_login
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.services import services

PAGE = 50
FILTERS = ("persona", "actor", "action", "status")
CHOICES = {"action": ACTIONS, "status": STATUSES}


async def show(visit: Visit) -> Response:
    """The page; `before` continues an earlier one, the others filter."""
    await require_login(visit)
    query = query_of(visit.request, "before", *FILTERS)
    before = number_of(query["before"], "before") if "before" in query else None
    wanted = {name: query[name] for name in FILTERS if query.get(name)}
    for name, choices in CHOICES.items():
        if wanted.get(name, choices[0]) not in choices:
            raise InvalidRequestError(f"{name} is one of {', '.join(choices)}")

    def read() -> Sequence[AuditRow]:
        with services(visit.request).store.read() as transaction:
            return transaction.audit_rows(PAGE + 1, before, **wanted)

    rows = await run_sync(read)
    older = None
    if len(rows) > PAGE:
        older = "/audit?" + urlencode(wanted | {"before": str(rows[PAGE - 1].audit_id)})
    return page(visit, "audit.html", rows=rows[:PAGE], older=older, wanted=wanted, choices=CHOICES)


routes = [page_route("/audit", show)]
