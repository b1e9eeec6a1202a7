"""`/alerts`: the alerts that Alertmanager sent, newest first, each with a link to the rollback."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.to_thread import run_sync
from starlette.responses import Response

from config_rollback.evidence.inbox import unheard
from config_rollback.storage.models import Alert
from config_rollback.web.dependencies import dependencies
from config_rollback.web.pages.session import require_login
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.query import Query, query_of

MAX_ALERTS = 200


async def show(visit: Visit) -> Response:
    """The page."""
    await require_login(visit)
    query_of(visit.request, Query)
    deps = dependencies(visit.request)

    def read() -> tuple[Sequence[Alert], Sequence[Alert]]:
        with deps.store.read() as transaction:
            # Separate queries, so that ended alerts cannot push firing ones off the list.
            return transaction.alerts(MAX_ALERTS, status="firing"), transaction.alerts(
                MAX_ALERTS, status="resolved"
            )

    (reported, resolved), now = await run_sync(read), deps.clock()
    silent = [alert for alert in reported if unheard(alert, now)]
    firing = [alert for alert in reported if alert not in silent]
    return page(visit, "alerts.html", firing=firing, silent=silent, resolved=resolved)


routes = [page_route("/alerts", show)]
