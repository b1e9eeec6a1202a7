"""A real Prometheus with the real rules, scraping metrics that a test sets."""

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, generate_latest

from driftback import contract
from exporter import catalogue
from exporter.metrics.monitoring import SelfMonitoring
from exporter.metrics.render import View, render
from exporter.storage.clock import Moment
from exporter.storage.journal import Fault
from exporter.storage.series import SeriesTable
from exporter.wire import HistogramDelta, SeriesDelta
from tests.grafana import history
from tests.support import monitoring, web
from tests.support.processes import DEADLINE_SECONDS
from tests.support.stacks import free_port

ROLLBACK_URL = "https://driftback.example.org/ops"

ALERTS = {
    "OutOfScopeDrift": "",
    "LlmErrorDrift": "",
    "LatencyDrift": "",
    "ConfigVersionRegression": "out_of_scope_rate",
}
"""Alerts that fire for every persona, with their label `kpi`: real drift would take the test hours."""

_STEADY = "count(min_over_time(up[5s]) == 1)"
_TARGETS = 4

Sample = dict[str, Any]


class Prometheus(monitoring.Prometheus):
    """Queries a running Prometheus while nothing changes."""

    def moment(self) -> float:
        """Now, once no scrape of the last seconds has failed. A scrape that timed out leaves a gap."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            now = time.time()
            steady = self.samples(_STEADY, now)
            if [float(sample["value"][1]) for sample in steady] == [_TARGETS]:
                return now
            assert time.monotonic() < deadline, f"scrapes fail again and again: {steady}"
            time.sleep(0.2)

    def still(self, expr: str, *, ahead: float = 0) -> list[Sample]:
        """Samples of an instant query, now or so many seconds ahead."""
        return self.samples(expr, self.moment() + ahead)

    def samples_read(self, expr: str) -> int:
        """Samples that Prometheus loads to answer an instant query."""
        answer = self.get("query", query=expr, time=str(self.moment()), stats="all")
        return int(answer["stats"]["samples"]["totalQueryableSamples"])

    def wait_for_samples(self, expr: str, count: int) -> list[Sample]:
        """The samples, once there are that many."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(found := self.samples(expr)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} samples: {expr}"
            time.sleep(0.2)
        return found


@contextmanager
def prometheus(
    folder: Path, personas: tuple[str, ...], *, alertmanager: str, rollback_url: str
) -> Iterator[Prometheus]:
    """Prometheus with the committed rules, scraping and evaluating every second, once it knows all personas.

    They have a past of eight days (`history`; the first one in full). Version 2 of every persona became
    active just now, was preceded by version 1, and its drift alerts fire. Alerts go to `alertmanager` (host
    and port).
    """
    history.write_blocks(folder / "data", personas, personas[0], time.time())
    with ExitStack() as stack:
        rollback, activate = _rollback(personas)
        exporter = _exporter(personas)
        targets = {
            "exporter": stack.enter_context(web.serving(lambda _: exporter)),
            "config_rollback": stack.enter_context(
                web.serving(lambda _: (200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(rollback)))
            ),
        }
        own = f"127.0.0.1:{free_port()}"
        started = stack.enter_context(
            monitoring.prometheus(
                folder,
                targets | {"prometheus": own, "alertmanager": alertmanager},
                # Alerts from before it had found Alertmanager are sent a second later, and not a minute.
                "--rules.alert.resend-delay=1s",
                alertmanager=alertmanager,
                driftback_url=rollback_url,
                rule_files=[_alerts(folder)],
                address=own,
            )
        )
        running = Prometheus(started.url, started.process)
        running.wait_for_samples("config_active_version == 1", len(personas))
        activate()
        for expr, count in (
            ("changes(config_active_version[5m]) > 0", len(personas)),
            ("increase(config_rollbacks_total[5m])", 1),
            ("increase(alertmanager_notifications_failed_total[5m])", 1),
            ("increase(prometheus_rule_evaluation_failures_total[5m])", 1),
            ("kpi:drift:evidence > 0", len(personas)),
            ('kpi:p95_latency_ms{scope="version",window="7d"}', 3 * len(personas)),
            ("kpi:version:z", len(personas)),
            ('ALERTS{alertstate="firing",persona!=""}', len(ALERTS) * len(personas)),
        ):
            running.wait_for_samples(expr, count)
        yield running


def _exporter(personas: tuple[str, ...]) -> web.Answer:
    """The exporter's own exposition, of counts made here."""
    registry = CollectorRegistry()
    own = SelfMonitoring(registry, ("label_not_allowed",))
    own.pushed("accepted")
    own.rejected("label_not_allowed")
    own.dropped(1)
    own.recovered(Fault.MISSING)
    own.limit(1000)
    table = SeriesTable()
    table.journal = "journal-1"
    own.watch(table)
    for persona in personas:
        for journey, version in (("chat", "1"), ("chat", "2"), ("guidance", "2")):
            past = history.CYCLES if version == "1" else 0
            scoped = journey in catalogue.OUT_OF_SCOPE_JOURNEYS
            delta = SeriesDelta(
                journey,
                persona,
                version,
                messages=100 * (past + 1),
                out_of_scope=scoped * (30 if version == "2" else 3 * (past + 1)),
                llm_errors={"timeout": 2 * (past + 1)},
                latency=_latencies(past + 1),
            )
            table.add(delta, Moment(0, time.time() - (history.DAYS * 24 * 3600 if past else 0)))
    view = View(tuple(table), table.reasons, catalogue.OUT_OF_SCOPE_JOURNEYS)
    text = "".join(render(view, openmetrics=False)).encode() + generate_latest(registry)
    return 200, CONTENT_TYPE_PLAIN_0_0_4, text


def _latencies(cycles: int) -> HistogramDelta:
    histogram = HistogramDelta(cycles * sum(history.LATENCIES))
    for seconds in history.LATENCIES:
        bucket = bisect_left(contract.LATENCY_BOUNDS, seconds)
        histogram.buckets[bucket] = histogram.buckets.get(bucket, 0) + cycles
    return histogram


def _rollback(personas: tuple[str, ...]) -> tuple[CollectorRegistry, Callable[[], None]]:
    """Its metrics while version 1 is active, and what makes version 2 the active one."""
    registry = CollectorRegistry()

    def gauge(name: str, *labels: str) -> Gauge:
        return Gauge(name, name, labels, registry=registry)

    active = gauge("config_active_version", "persona")
    predecessor = gauge("config_version_predecessor_info", "persona", "config_version", "predecessor")
    clients = gauge("config_clients", "persona", "config_version")
    withheld = gauge("config_withheld", "persona")
    gauge("config_rollback_info", "external_url").labels(ROLLBACK_URL).set(1)
    Counter("config_rollbacks", "Rollbacks.", ["status"], registry=registry).labels("succeeded").inc()
    Counter("config_audit_failures", "Audit failures.", registry=registry)
    for name, label in (("config_activations", "action"), ("config_authentication_failures", "code")):
        Counter(name, name, [label], registry=registry).labels("any").inc()
    alerts = gauge("alert_of_the_test", "alert", "kpi", "journey", "persona", "config_version")
    for persona in personas:
        active.labels(persona).set(1)
        withheld.labels(persona).set(0)
        predecessor.labels(persona, "2", "1").set(1)
        clients.labels(persona, "1").set(1)
        clients.labels(persona, "2").set(3)
        for alert, kpi in ALERTS.items():
            alerts.labels(alert, kpi, "chat", persona, "2").set(1)

    def activate() -> None:
        for persona in personas:
            active.labels(persona).set(2)

    return registry, activate


def _alerts(folder: Path) -> Path:
    """A rule file with alerts that a metric of the test switches on."""
    rules = [
        {
            "alert": name,
            "expr": f'max without (alert, job, instance) (alert_of_the_test{{alert="{name}"}})',
            "labels": {"severity": "page"},
        }
        for name in ALERTS
    ]
    file = folder / "alerts.json"
    file.write_text(json.dumps({"groups": [{"name": "alerts_of_the_test", "rules": rules}]}))
    return file
