"""`POST /v1/alerts`: the webhook of Alertmanager or Grafana, by its own token."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.evidence.inbox import WebhookMessage
from config_rollback.web import access
from config_rollback.web.api import response_models
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import read_json, success
from config_rollback.web.operation import operation

BATCH = 500
"""Alerts per transaction: a rollback waits for no more than these. Half a message kept does no harm, for
Alertmanager sends it again."""


@operation("alertmanager", response_models.Received, body=WebhookMessage)
async def receive(request: Request) -> Response:
    """Keeps the alerts as evidence. Repeating a message changes nothing but `updated_at`."""
    deps = dependencies(request)
    access.require_machine(request, deps.settings.alertmanager_tokens)
    message = await read_json(request, WebhookMessage)
    now = deps.clock()

    def keep() -> int:
        new = 0
        for start in range(0, len(message.alerts), BATCH):
            with deps.store.write() as transaction:
                batch = message.alerts[start : start + BATCH]
                new += transaction.record_alerts([alert.as_row(now) for alert in batch])
        return new

    new = await run_sync(keep)
    for alert in message.alerts:
        deps.metrics.alerts_received.labels(alert.status).inc()
    return success(request, {"received": len(message.alerts), "new": new})


routes = [Route("/v1/alerts", receive, methods=["POST"])]
