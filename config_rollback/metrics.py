"""The service's own metrics (`/metrics`)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from config_rollback.audit.chain import ACCEPT_BASELINE, Attempt
from config_rollback.auth.rate_limits import RateLimits
from config_rollback.clock import Clock
from config_rollback.delivery.convergence import Clients
from config_rollback.delivery.delivery import Delivery
from config_rollback.errors import (
    AuditUnavailableError,
    ConfigRollbackError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from config_rollback.storage.store import Store

disable_created_metrics()  # type: ignore[no-untyped-call]  # nothing reads `_created` lines

PREDECESSOR_WITHIN = timedelta(days=8)
"""Versions activated within this time keep their series: the longest window of the KPI, and a day."""


class Metrics:
    """Counters of this process, and gauges read when they are asked for."""

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        clients: Clients,
        rate_limits: RateLimits,
        clock: Clock,
        external_url: str,
    ) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        gauge(
            "config_rollback_info",
            "1; the label is the address at which browsers reach this service, for links from dashboards.",
            ["external_url"],
        ).labels(external_url).set(1)
        self.activations = counter(
            "config_activations", "Versions activated, by action.", ["persona", "action"]
        )
        self.rollbacks = counter(
            "config_rollbacks", "Requested rollbacks: done, refused by a rule, or failed.", ["status"]
        )
        self.audit_failures = counter(
            "config_audit_failures",
            "Attempts that were not carried out because the audit row could not be written.",
        )
        self.alerts_received = counter(
            "config_alerts_received", "Alerts in webhook messages, repetitions included.", ["status"]
        )
        self.authentication_failures = counter(
            "config_authentication_failures",
            "Requests refused because of missing or invalid credentials, by error code.",
            ["code"],
        )
        self.forbidden = counter(
            "config_forbidden",
            "Attempts refused because the role ops was missing; one audit row may stand for several.",
        )
        self.rows_deleted = counter(
            "config_rows_deleted",
            "Rows deleted because they were older than the settings keep them.",
            ["table"],
        )
        self.clock_jumps = counter(
            "config_clock_jumps",
            "Jumps of the system's clock against a monotonic one; for an hour after one nothing is deleted.",
        )
        self._refused = counter(
            "config_requests_refused",
            "Connections and requests refused by the server itself: not HTTP, or over a bound.",
            ["code"],
        )
        self.connections_evicted = counter(
            "config_connections_evicted",
            "Connections that were ended to make room for new ones: their peers kept us waiting longest.",
        )
        refusals: list[type[ConfigRollbackError]] = [InvalidRequestError, *OverloadedError.__subclasses__()]
        for kind in refusals:
            self._refused.labels(kind.code)
        gauge("config_long_polls", "Configuration requests that wait for a change.").set_function(
            lambda: delivery.waiting
        )
        gauge(
            "config_rate_limit_store_up",
            "1 while calls are counted in the configured store, 0 while each replica counts for itself.",
        ).set_function(lambda: rate_limits.store_up)
        for status in ("succeeded", "refused", "failed"):
            self.rollbacks.labels(status)
        for status in ("firing", "resolved"):
            self.alerts_received.labels(status)
        self.registry.register(_Versions(store, delivery, clients, clock))

    def know_persona(self, persona: str) -> None:
        """Exports the persona's counters at 0: a counter that appears at 1 loses its first event."""
        for action in ("publish", "rollback"):
            self.activations.labels(persona, action)

    def refused(self, error: ConfigRollbackError) -> None:
        """Counts what the server refused before the application judged it."""
        self._refused.labels(error.code).inc()

    def audited(self, attempt: Attempt) -> None:
        """Counts an attempt that has its audit row (`attempts.Observer`)."""
        done = attempt.status == "succeeded"
        if done and attempt.persona is not None and attempt.action != ACCEPT_BASELINE:
            self.know_persona(attempt.persona)
            self.activations.labels(attempt.persona, attempt.action).inc()
        if attempt.action == "rollback":
            self.rollbacks.labels("succeeded" if done else "refused").inc(attempt.attempts)

    def unaudited(self, attempt: Attempt, error: UnavailableError) -> None:
        """Counts an attempt that the database failed (`attempts.Observer`)."""
        if isinstance(error, AuditUnavailableError):
            self.audit_failures.inc()
        if attempt.action == "rollback":
            self.rollbacks.labels("failed").inc()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _Versions(Collector):
    """Which versions are active, came before, and are served."""

    def __init__(self, store: Store, delivery: Delivery, clients: Clients, clock: Clock) -> None:
        self._store = store
        self._delivery = delivery
        self._clients = clients
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, which saves the registry a query when it registers this collector."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One family per gauge. If the database fails, they say so, and those that do not need it stay."""
        active = GaugeMetricFamily(
            "config_active_version", "The active version's number.", labels=["persona"]
        )
        for persona, config in self._delivery.active.items():
            active.add_metric([persona], config.version)
        yield active
        withheld = GaugeMetricFamily(
            "config_withheld",
            "1 if the active version is not delivered because the audit log does not confirm it.",
            labels=["persona"],
        )
        for persona in self._delivery.active.keys() | self._delivery.withheld:
            withheld.add_metric([persona], persona in self._delivery.withheld)
        yield withheld
        up = GaugeMetricFamily(
            "config_database_up", "1 if the database could be read for this scrape and is not read-only."
        )
        try:
            yield from self._stored()
        except UnavailableError:  # the store has logged it
            readable = False
        else:
            readable = True
        up.add_metric([], readable)
        yield up
        serving = GaugeMetricFamily(
            "config_clients",
            "Processes that reported within the last minute, to this replica last, to serve this version.",
            labels=["persona", "config_version"],
        )
        # One that failed is not asked again: a silent database would take longer than a scrape may.
        for (persona, version), count in self._clients.on_this_replica(ask=readable).items():
            serving.add_metric([persona, str(version)], count)
        yield serving

    def _stored(self) -> list[Metric]:
        predecessor = GaugeMetricFamily(
            "config_version_predecessor_info",
            "1 for a recent version and the one that a rollback from it restores by default.",
            labels=["persona", "config_version", "predecessor"],
        )
        accepted = GaugeMetricFamily(
            "config_baseline_accepted_timestamp_seconds",
            "When an operator last accepted the persona's behaviour as the baseline.",
            labels=["persona"],
        )
        with self._store.read() as transaction:
            transaction.require_writable()
            for activation in transaction.recent_activations(self._clock() - PREDECESSOR_WITHIN):
                target = transaction.default_target(activation)
                if target is not None:
                    predecessor.add_metric([activation.persona, str(activation.version), str(target)], 1)
            for persona, at in transaction.accepted_baselines():
                accepted.add_metric([persona], at.timestamp())
        return [predecessor, accepted]
