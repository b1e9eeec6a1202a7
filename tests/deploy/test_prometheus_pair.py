"""Two Prometheus evaluate the same rules side by side; one Alertmanager sends one notification for both."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from driftback_server.stack import components
from driftback_server.stack.ports import LOOPBACK
from tests.support.stacks import ROOT, answers, free_port, wait_for

QUIET = b'# TYPE exporter_rejected_total counter\nexporter_rejected_total{reason="token_invalid"} 0\n'
FIRING = 'ALERTS{alertname="ObservationsRejected",alertstate="firing"}'
SENT = "prometheus_notifications_sent_total{"
RECEIVED = 'alertmanager_alerts_received_total{status="firing"'
GROUPINGS = 3
"""Seconds in which Alertmanager looks at a group three times: enough for a second notification to show."""
REFUSED = QUIET.replace(b" 0\n", b" 5\n")


@contextmanager
def _process(name: str, *options: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = components.ensure([name])[name]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *options], stdout=output, stderr=output, cwd=components.working_directory(program)
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


class Endpoint:
    """What Prometheus scrapes, and what Alertmanager notifies."""

    def __init__(self) -> None:
        self.metrics = QUIET
        self.notifications: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(outer.metrics)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.notifications.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.address = f"{LOOPBACK}:{self.server.server_port}"


@contextmanager
def _endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()


@contextmanager
def _alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    config = yaml.safe_load((ROOT / "prometheus" / "alertmanager.yml").read_text())
    config["templates"] = []
    config["route"] |= {"group_wait": "2s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for hook in receiver.get("webhook_configs", []):
            hook["url"] = f"http://{webhook}/v1/alerts"
            hook.pop("http_config")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    url = f"http://{LOOPBACK}:{free_port()}"
    with _process(
        "alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
        log=folder / "alertmanager.log",
    ):
        wait_for("Alertmanager", 60, lambda: answers(f"{url}/-/ready"), pause=0.1)
        yield url


@contextmanager
def _prometheus(
    folder: Path, replica: str, alertmanager: str, target: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As shipped, with a replica's name as docs/deployment.md has it for remote write."""
    config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["global"]["external_labels"]["prometheus_replica"] = replica
    (drop,) = config["alerting"]["alert_relabel_configs"]
    drop["regex"] += "|prometheus_replica"
    config["rule_files"] = [str(ROOT / "rules" / "*.yml")]
    (manager,) = config["alerting"]["alertmanagers"]
    manager["static_configs"] = [{"targets": [alertmanager.removeprefix("http://")]}]
    config["scrape_configs"] = [{"job_name": "exporter", "static_configs": [{"targets": [target]}]}]
    file = folder / f"{replica}.yml"
    file.write_text(yaml.safe_dump(config))
    url = f"http://{LOOPBACK}:{free_port()}"
    with _process(
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / replica}",
        # It finds Alertmanager seconds after its first evaluation, and would tell it a minute later.
        "--rules.alert.resend-delay=1s",
        f"--web.listen-address={url.removeprefix('http://')}",
        log=folder / f"{replica}.log",
    ) as process:
        wait_for(f"Prometheus {replica}", 60, lambda: answers(f"{url}/-/ready"), pause=0.1)
        yield url, process


@pytest.mark.end_to_end
def test_one_notification_comes_of_two_prometheus_and_outlives_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        endpoint = stack.enter_context(_endpoint())
        alertmanager = stack.enter_context(_alertmanager(tmp_path, endpoint.address))
        pair = [
            stack.enter_context(_prometheus(tmp_path, name, alertmanager, endpoint.address))
            for name in ("a", "b")
        ]
        first, second = (url for url, _ in pair)
        for url in (first, second):
            wait_for("a scrape", 60, partial(_is, url, "exporter_rejected_total", 0), pause=0.2)
        endpoint.metrics = REFUSED
        for url in (first, second):
            wait_for("the alert", 60, partial(_is, url, FIRING, 1), pause=0.2)
            # Watchdog and this one, more than once.
            wait_for("the alert sent", 60, partial(_reaches, url, SENT, 4), pause=0.2)

        wait_for("a notification", 60, lambda: endpoint.notifications, pause=0.1)
        time.sleep(GROUPINGS)
        assert _sum(alertmanager, RECEIVED) >= 8, "both have told Alertmanager"
        (notification,) = endpoint.notifications
        (alert,) = notification["alerts"]
        assert (alert["status"], alert["labels"]["alertname"]) == ("firing", "ObservationsRejected")
        assert not {"prometheus_replica", "driftback_url", "grafana_url"} & set(alert["labels"])

        _, process = pair[0]
        process.terminate()
        process.wait(20)
        time.sleep(GROUPINGS)
        assert _is(second, FIRING, 1)
        assert endpoint.notifications == [notification]
        active = requests.get(f"{alertmanager}/api/v2/alerts?active=true", timeout=10).json()
        assert {alert["labels"]["alertname"] for alert in active} == {"ObservationsRejected", "Watchdog"}


def _is(url: str, query: str, value: float) -> bool:
    answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
    return [float(sample["value"][1]) for sample in answer["data"]["result"]] == [value]


def _reaches(url: str, start: str, value: float) -> bool:
    return _sum(url, start) >= value


def _sum(url: str, start: str) -> float:
    """The sum of the samples of /metrics that begin so."""
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))
