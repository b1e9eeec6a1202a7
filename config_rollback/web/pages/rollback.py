"""`/rollback/{persona}`: what a rollback would change and why; the button; the result."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from anyio.to_thread import run_sync
from pydantic import Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from config_rollback.errors import NotFoundError, TargetNotFoundError
from config_rollback.personas import diff
from config_rollback.rollback.attempts import Call
from config_rollback.rollback.changes import Rollback
from config_rollback.rollback.lengths import MAX_ALERT_LENGTH, MAX_KEY_LENGTH, MAX_REASON_LENGTH
from config_rollback.storage.models import Activation, Alert, AuditRow, Version
from config_rollback.storage.store import Transaction
from config_rollback.visible import without_hidden
from config_rollback.web import acts
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import persona_of, plain_text, request_id
from config_rollback.web.pages.evidence import collect
from config_rollback.web.pages.render import rollback_path
from config_rollback.web.pages.session import require_form, require_login
from config_rollback.web.pages.visit import Visit, page, page_route
from config_rollback.web.query import Number, Query, Text, number_of, query_of

log = structlog.get_logger(__name__)

MAX_CHOICES = 20
MAX_ALERTS = 20
MAX_HISTORY = 8
WATCH = timedelta(minutes=5)
"""How long the result reloads by itself while processes have not converged."""


class RollbackQuery(Query):
    """What the link names: versions and an alert, or the result of a rollback by its audit row."""

    expected_version: Number | None = Field(None, alias="from")
    to: Number | None = None
    alert: Text = ""
    result: Number | None = None
    reload: Text | None = None


@dataclass(frozen=True)
class Situation:
    """What there is to decide about. `expected_version` is the version that the link names."""

    persona: str
    active: Activation
    expected_version: int
    leaving: Version | None
    target: Version | None
    choices: Sequence[Version]
    alerts: Sequence[Alert]
    history: Sequence[AuditRow]
    serving: Counter[int]
    """How many processes serve each version."""

    @property
    def stale(self) -> bool:
        """Whether the link names a version that is not active any more."""
        return self.active.version != self.expected_version

    @property
    def done(self) -> bool:
        """Whether the rollback that the link is for was done already."""
        last = self.active
        return (
            last.action == "rollback"
            and last.from_version == self.expected_version
            and last.version < self.expected_version
        )

    def compare(self) -> list[tuple[diff.Change, list[diff.Piece]]]:
        """What a rollback changes. It can take a while: not in the event loop."""
        if self.leaving is None or self.target is None or self.stale:
            return []
        found = diff.changes(self.leaving.config, self.target.config)
        return [(change, change.pieces()) for change in found]


@dataclass(frozen=True)
class Outcome:
    """A rollback that was done."""

    row: AuditRow
    activation: Activation
    active: Activation
    serving: Counter[int]


async def show(visit: Visit) -> Response:
    """The page of the decision, or with `result` that of the result. Changes nothing."""
    request = visit.request
    persona = persona_of(request)
    await require_login(visit, "read", persona)
    query = query_of(request, RollbackQuery)
    if query.result is not None:
        # A person can stop the automatic reload (WCAG 2.2.1).
        return await _show_result(visit, persona, query.result, watched=query.reload != "off")
    situation = await run_sync(lambda: _situation(request, persona, query))
    deps = dependencies(request)
    evidence = None
    if situation.target is not None and not situation.stale:
        versions = tuple(dict.fromkeys((situation.expected_version, situation.target.number)))
        evidence = await collect(deps.kpis, persona, versions)
    return page(
        visit,
        "rollback.html",
        # What the button would answer: a second click on an alert's link says that it does nothing.
        status=409 if situation.stale else 200,
        situation=situation,
        changes=await _compare(situation),
        alert=query.alert,
        evidence=evidence,
        idempotency_key=uuid.uuid4().hex,
    )


async def act(visit: Visit) -> Response:
    """The button."""
    request = visit.request
    persona = persona_of(request)
    login, form = await require_form(visit, "rollback", persona)
    # A browser sends each line break as two characters and counts it as one.
    reason = form.get("reason", "").replace("\r\n", "\n").strip()
    visit.reason = without_hidden(reason)
    rollback = Rollback(
        persona=persona,
        expected_version=number_of(form.get("expected_version", ""), "expected_version"),
        to_version=number_of(form.get("to_version", ""), "to_version"),
        reason=plain_text(reason, "reason", MAX_REASON_LENGTH) or None,
        # Whatever Alertmanager called it: the link of an alert must lead to a button that works.
        alert=without_hidden(form.get("alert", ""))[:MAX_ALERT_LENGTH] or None,
    )
    key = plain_text(form.get("idempotency_key", ""), "idempotency_key", MAX_KEY_LENGTH) or None
    change = dependencies(request).changes.roll_back
    result = await acts.activate(request, change, rollback, Call(login.actor, request_id(request), key))
    return RedirectResponse(rollback_path(persona, result=result.audit_id), 303)


async def _compare(situation: Situation) -> list[tuple[diff.Change, list[diff.Piece]]] | None:
    """See `Situation.compare`; None if a version is not as it was published."""
    try:
        return await run_sync(situation.compare)
    except Exception:  # whatever it holds: the button does not need the comparison
        log.exception("comparison_failed", persona=situation.persona)
        return None


async def _show_result(visit: Visit, persona: str, audit_id: int, watched: bool) -> Response:
    deps = dependencies(visit.request)

    def read() -> Outcome:
        serving = deps.clients.serving(persona)
        with deps.store.read() as transaction:
            row, activation = transaction.audit_row(audit_id), transaction.activation_of_audit(audit_id)
            active = transaction.active(persona)
            if row is None or activation is None or active is None or activation.persona != persona:
                raise NotFoundError("there is no such rollback")
            return Outcome(row, activation, active, serving)

    outcome = await run_sync(read)
    clients, converged = outcome.serving.total(), outcome.serving[outcome.activation.version]
    latest = outcome.active.activation_id == outcome.activation.activation_id
    young = deps.clock() - outcome.activation.activated_at < WATCH
    waiting = converged < clients
    evidence = None
    # First the fast answer, then this; the version that is back may have to wait for its first messages.
    if latest and outcome.row.from_version is not None and not (waiting and young):
        evidence = await collect(deps.kpis, persona, (outcome.row.from_version,), outcome.activation)
    return page(
        visit,
        "result.html",
        outcome=outcome,
        clients=clients,
        converged=converged,
        latest=latest,
        evidence=evidence,
        moving=latest and young,
        reload=_reload_seconds(waiting) if latest and young and watched else None,
    )


def _reload_seconds(waiting: bool) -> int:
    """Every second until all processes have followed, then as often as Prometheus has news of the KPI."""
    return 1 if waiting else 15


def _situation(request: Request, persona: str, query: RollbackQuery) -> Situation:
    serving = dependencies(request).clients.serving(persona)
    with dependencies(request).store.read() as transaction:
        active = transaction.active(persona)
        if active is None:
            raise NotFoundError("there is no such persona")
        expected_version = query.expected_version or active.version
        number = query.to or transaction.default_target(active)
        target = None if number is None else transaction.version(persona, number)
        if query.to is not None and target is None:
            raise TargetNotFoundError(f"version {query.to} does not exist")
        return Situation(
            persona=persona,
            active=active,
            expected_version=expected_version,
            leaving=transaction.version(persona, expected_version),
            target=target,
            choices=transaction.versions(persona, MAX_CHOICES),
            alerts=_alerts(transaction, persona, query.alert),
            history=transaction.audit_rows(MAX_HISTORY, persona=persona, status="succeeded"),
            serving=serving,
        )


def _alerts(transaction: Transaction, persona: str, named: str) -> Sequence[Alert]:
    """What fires for the persona, and the alert that the link names first, even if it has ended."""
    firing = transaction.alerts(MAX_ALERTS, persona=persona, status="firing")
    led_here = [alert for alert in firing if alert.alertname == named]
    if named and not led_here:
        ended = transaction.alerts(MAX_ALERTS, persona=persona, status="resolved")
        led_here = [alert for alert in ended if alert.alertname == named][:1]
    return led_here + [alert for alert in firing if alert not in led_here]


routes = [
    page_route("/rollback/{persona}", show),
    page_route("/rollback/{persona}", act, "POST"),
]
