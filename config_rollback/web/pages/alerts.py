"""`/alerts`: what Alertmanager told, newest first, each with the way to the rollback."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.evidence.inbox import unheard
from config_rollback.storage.models import Alert
from config_rollback.web.http import query_of
from config_rollback.web.pages.render import page
from config_rollback.web.pages.session import require_login
from config_rollback.web.services import services

MAX_ALERTS = 200


async def show(request: Request) -> Response:
    """The page."""
    login = await require_login(request)
    query_of(request)

    def read() -> tuple[Sequence[Alert], Sequence[Alert]]:
        with services(request).store.read() as transaction:
            # Each for itself: what ended hides nothing that fires.
            return transaction.alerts(MAX_ALERTS, status="firing"), transaction.alerts(
                MAX_ALERTS, status="resolved"
            )

    (told, resolved), now = await run_sync(read), services(request).clock()
    silent = [alert for alert in told if unheard(alert, now)]
    firing = [alert for alert in told if alert not in silent]
    return page(request, "alerts.html", login, firing=firing, silent=silent, resolved=resolved)


routes = [Route("/alerts", show)]
