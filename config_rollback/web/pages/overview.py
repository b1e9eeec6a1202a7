"""`/`: every persona, what it serves, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from anyio.to_thread import run_sync
from starlette.responses import Response

from config_rollback.evidence.inbox import unheard
from config_rollback.storage.models import Activation, Alert, Version
from config_rollback.web.dependencies import dependencies
from config_rollback.web.pages.session import require_login
from config_rollback.web.pages.visit import Visit, page, page_route

MAX_ALERTS = 200


@dataclass(frozen=True)
class Row:
    """A persona. `clients` processes serve it, `current` of them the active version.

    `firing` are all alerts about it; those about a version that is no longer active need nobody any more.
    `unheard` are those that Alertmanager has not repeated for long, which alarm nobody either.
    """

    activation: Activation
    version: Version
    firing: list[Alert]
    unheard: list[Alert]
    clients: int
    current: int

    @property
    def alerts(self) -> list[Alert]:
        """The alerts about the active version."""
        return self._about_active(self.firing)

    @property
    def past(self) -> list[Alert]:
        """The alerts about other versions, which end by themselves when nothing serves these versions."""
        return [alert for alert in self.firing if alert not in self.alerts]

    @property
    def silent(self) -> list[Alert]:
        """The alerts about the active version that were not repeated."""
        return self._about_active(self.unheard)

    def _about_active(self, alerts: list[Alert]) -> list[Alert]:
        return [alert for alert in alerts if alert.config_version in (None, str(self.version.number))]


async def show(visit: Visit) -> Response:
    """The page."""
    await require_login(visit)
    deps = dependencies(visit.request)
    now = deps.clock()

    def read() -> list[Row]:
        serving = deps.clients.by_version()
        with deps.store.read() as transaction:
            reported = transaction.alerts(MAX_ALERTS, status="firing")
            silent = [alert for alert in reported if unheard(alert, now)]
            firing = [alert for alert in reported if alert not in silent]
            rows = [
                Row(
                    activation,
                    version,
                    [alert for alert in firing if alert.persona == version.persona],
                    [alert for alert in silent if alert.persona == version.persona],
                    sum(count for (persona, _), count in serving.items() if persona == version.persona),
                    serving[version.persona, version.number],
                )
                for activation, version in transaction.all_active()
            ]
            return sorted(rows, key=lambda row: not row.alerts)  # personas with alerts come first

    return page(visit, "overview.html", rows=await run_sync(read))


routes = [page_route("/", show)]
