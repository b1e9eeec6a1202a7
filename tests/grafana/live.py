"""A real Prometheus with the real rules, scraping metrics that a test sets."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from config_rollback.stack.components import ensure
from exporter import catalogue
from tests.grafana import model

_DEADLINE_SECONDS = 60

ROLLBACK_URL = "https://driftback.example.org/ops"

ALERTS = {
    "OutOfScopeDrift": "",
    "LlmErrorDrift": "",
    "LatencyDrift": "",
    "ConfigVersionRegression": "out_of_scope_rate",
}
"""Alerts that fire for every persona, with their label `kpi`: real drift would take the test hours."""

Sample = dict[str, Any]


class Prometheus:
    """Queries a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str) -> list[Sample]:
        """Samples of an instant query; fails with Prometheus' own words where the expression is refused."""
        answer = requests.post(f"{self.url}/api/v1/query", data={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", f"{answer.get('error')}\n{expr}"
        samples: list[Sample] = answer["data"]["result"]
        return samples

    def wait_for(self, expr: str, samples: int) -> None:
        """Until the query has at least that many samples."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while len(found := self.query(expr)) < samples:
            assert time.monotonic() < deadline, f"{len(found)} of {samples} samples: {expr}"
            time.sleep(0.2)


@contextmanager
def prometheus(folder: Path, personas: tuple[str, ...]) -> Iterator[Prometheus]:
    """Prometheus with the committed rules, scraping and evaluating every second, once it knows all personas.

    Version 2 of every persona is active, was preceded by version 1, and its drift alerts fire.
    """
    with ExitStack() as stack:
        targets = {}
        for job, registry in {
            "exporter": _exporter(personas),
            "config_rollback": _rollback(personas),
        }.items():
            server, thread = start_http_server(0, "127.0.0.1", registry)
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            targets[job] = f"127.0.0.1:{server.server_port}"
        running = Prometheus(stack.enter_context(_process(folder, _config(folder, targets))))
        running.wait_for('kpi:p95_latency_ms{scope="version",window="7d"}', 3 * len(personas))
        running.wait_for("kpi:version:z", len(personas))
        running.wait_for('ALERTS{alertstate="firing",persona!=""}', len(ALERTS) * len(personas))
        yield running


def _exporter(personas: tuple[str, ...]) -> CollectorRegistry:
    registry = CollectorRegistry()

    def metric(kind: Any, metric: catalogue.Metric, **options: Any) -> Any:
        return kind(metric.name, metric.help, metric.labels, registry=registry, **options)

    messages = metric(Counter, catalogue.MESSAGES)
    out_of_scope = metric(Counter, catalogue.OUT_OF_SCOPE)
    llm_errors = metric(Counter, catalogue.LLM_ERRORS)
    created = metric(Gauge, catalogue.CREATED)
    latency = metric(Histogram, catalogue.LATENCY, buckets=catalogue.LATENCY_BOUNDS)
    metric(Counter, catalogue.PUSHES).labels("accepted").inc()
    metric(Counter, catalogue.REJECTED).labels("label_not_allowed").inc()
    metric(Counter, catalogue.CLIENT_DROPPED).inc()
    metric(Gauge, catalogue.SERIES).set(3 * len(personas))
    metric(Gauge, catalogue.SERIES_LIMIT).set(1000)
    for persona in personas:
        for journey, version in (("chat", "1"), ("chat", "2"), ("guidance", "2")):
            labels = ("journal-1", journey, persona, version)
            messages.labels(*labels).inc(100)
            if journey in catalogue.OUT_OF_SCOPE_JOURNEYS:
                out_of_scope.labels(*labels).inc(30 if version == "2" else 3)
            llm_errors.labels(*labels, "timeout").inc(2)
            created.labels(*labels).set(time.time())
            for n in range(1, 101):
                latency.labels(*labels).observe(n * 0.008)
    return registry


def _rollback(personas: tuple[str, ...]) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, *labels: str) -> Gauge:
        return Gauge(name, name, labels, registry=registry)

    active = gauge("config_active_version", "persona")
    predecessor = gauge("config_version_predecessor_info", "persona", "config_version", "predecessor")
    clients = gauge("config_clients", "persona", "config_version")
    gauge("config_rollback_info", "external_url").labels(ROLLBACK_URL).set(1)
    Counter("config_rollbacks", "Rollbacks.", ["status"], registry=registry).labels("succeeded").inc()
    Counter("config_audit_failures", "Audit failures.", registry=registry)
    alerts = gauge("alert_of_the_test", "alert", "kpi", "journey", "persona", "config_version")
    for persona in personas:
        active.labels(persona).set(2)
        predecessor.labels(persona, "2", "1").set(1)
        clients.labels(persona, "1").set(1)
        clients.labels(persona, "2").set(3)
        for alert, kpi in ALERTS.items():
            alerts.labels(alert, kpi, "chat", persona, "2").set(1)
    return registry


def _config(folder: Path, targets: dict[str, str]) -> Path:
    alerts = folder / "alerts.json"
    rules = [
        {
            "alert": name,
            "expr": f'max without (alert, job, instance) (alert_of_the_test{{alert="{name}"}})',
            "labels": {"severity": "page"},
        }
        for name in ALERTS
    ]
    alerts.write_text(json.dumps({"groups": [{"name": "alerts_of_the_test", "rules": rules}]}))
    config = folder / "prometheus.json"
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(alerts), str(model.ROOT / "rules" / "*.yml")],
                "scrape_configs": jobs,
            }
        )
    )
    return config


@contextmanager
def _process(folder: Path, config: Path) -> Iterator[str]:
    """URL of a Prometheus process on a free port."""
    command = [
        str(ensure(["prometheus"])["prometheus"]),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = folder / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while "ready to receive web requests" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        listening = re.search(r'msg="Listening on" address=(\S+)', text)
        assert listening, text
        yield f"http://{listening[1]}"
    finally:
        process.terminate()
        process.wait(timeout=_DEADLINE_SECONDS)
