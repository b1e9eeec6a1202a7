"""Two Prometheus evaluate the same rules side by side; one Alertmanager sends one notification for both."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import web
from tests.support.monitoring import alertmanager, prometheus
from tests.support.stacks import wait_for

QUIET = b'# TYPE exporter_rejected_total counter\nexporter_rejected_total{reason="token_invalid"} 0\n'
REFUSED = QUIET.replace(b" 0\n", b" 5\n")
FIRING = 'ALERTS{alertname="ObservationsRejected",alertstate="firing"}'
SENT = "prometheus_notifications_sent_total{"
RECEIVED = 'alertmanager_alerts_received_total{status="firing"'
GROUPINGS = 3
"""Seconds in which Alertmanager looks at a group three times: enough for a second notification to show."""


@pytest.mark.end_to_end
def test_one_notification_comes_of_two_prometheus_and_outlives_one(tmp_path: Path) -> None:
    metrics = [QUIET]
    notifications: list[dict[str, Any]] = []

    def notified(body: bytes) -> web.Answer:
        notifications.append(json.loads(body))
        return 200, "text/plain", b""

    with ExitStack() as stack:
        exporter = stack.enter_context(web.serving(lambda _: (200, "text/plain; version=0.0.4", metrics[-1])))
        webhook = stack.enter_context(web.serving(notified))
        address = stack.enter_context(
            alertmanager(tmp_path / "alertmanager", f"http://{webhook}", group_wait="2s")
        )
        first, second = (
            stack.enter_context(
                prometheus(
                    tmp_path / name,
                    {"exporter": exporter},
                    # It finds Alertmanager seconds after its first evaluation; without this a minute passes.
                    "--rules.alert.resend-delay=1s",
                    alertmanager=address,
                    replica=name,
                )
            )
            for name in ("a", "b")
        )
        for one in (first, second):
            wait_for("a scrape", 60, lambda one=one: one.value("exporter_rejected_total") == 0, pause=0.2)  # type: ignore[misc]
        metrics.append(REFUSED)
        for one in (first, second):
            wait_for("the alert", 60, lambda one=one: one.value(FIRING) == 1, pause=0.2)  # type: ignore[misc]
            # Watchdog and this one, more than once.
            wait_for("the alert sent", 60, lambda one=one: _sum(one.url, SENT) >= 4, pause=0.2)  # type: ignore[misc]

        wait_for("a notification", 60, lambda: notifications, pause=0.1)
        time.sleep(GROUPINGS)
        assert _sum(f"http://{address}", RECEIVED) >= 8, "both have told Alertmanager"
        (notification,) = notifications
        (alert,) = notification["alerts"]
        assert (alert["status"], alert["labels"]["alertname"]) == ("firing", "ObservationsRejected")
        assert not {"prometheus_replica", "driftback_url", "grafana_url"} & set(alert["labels"])

        first.process.terminate()
        first.process.wait(20)
        time.sleep(GROUPINGS)
        assert second.value(FIRING) == 1
        assert notifications == [notification]
        active = requests.get(f"http://{address}/api/v2/alerts?active=true", timeout=10).json()
        assert {alert["labels"]["alertname"] for alert in active} == {"ObservationsRejected", "Watchdog"}


def _sum(url: str, start: str) -> float:
    """The sum of the samples of /metrics that begin so."""
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))
