"""`/alerts`: the alerts that Alertmanager sent, newest first, each with a link to the rollback."""

from __future__ import annotations

from starlette.responses import Response

from config_rollback.evidence.inbox import unheard
from config_rollback.web.dependencies import dependencies, read
from config_rollback.web.pages.session import require_login
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.query import Query, query_of

MAX_ALERTS = 200


async def show(visit: Visit) -> Response:
    """The page."""
    await require_login(visit)
    query_of(visit.request, Query)
    # Separate queries, so that ended alerts cannot push firing ones off the list.
    reported, resolved = await read(
        visit.request,
        lambda transaction: [
            transaction.alerts(MAX_ALERTS, status=status) for status in ("firing", "resolved")
        ],
    )
    now = dependencies(visit.request).clock()
    silent = [alert for alert in reported if unheard(alert, now)]
    firing = [alert for alert in reported if alert not in silent]
    return page(visit, "alerts.html", firing=firing, silent=silent, resolved=resolved)


routes = [page_route("/alerts", show)]
