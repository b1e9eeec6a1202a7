"""One cause, one notification: committed rules and routes in a real Prometheus and Alertmanager."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.grafana import services
from tests.rules.live import Exporter, LabelSet, running
from tests.support.stacks import wait_for

DEADLINE_SECONDS = 60
GROUP_WAIT = "5s"
"""In place of the committed ten seconds: Prometheus sends the alerts of one evaluation one by one."""
GROUP_INTERVAL_SECONDS = 1
"""What the tests put in place of the committed minute."""

Json = dict[str, Any]


class Inbox:
    """Keeps what Alertmanager's webhook sends."""

    def __init__(self) -> None:
        self.messages: list[Json] = []

    def alerts(self, **labels: str) -> list[tuple[str, list[str]]]:
        """(status, names of alerts) of every notification for these labels, in order."""
        return [
            (message["status"], sorted(alert["labels"]["alertname"] for alert in message["alerts"]))
            for message in self.messages
            if message["groupLabels"] == labels
        ]


@contextmanager
def _receiving(inbox: Inbox) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def notifier(alertmanager: Path, tmp_path: Path, inbox: Inbox) -> Iterator[str]:
    """Host and port of an Alertmanager with the committed routes; its webhook fills the inbox."""
    (folder := tmp_path / "alertmanager").mkdir()
    with (
        _receiving(inbox) as url,
        services.alertmanager(alertmanager, folder, url, group_wait=GROUP_WAIT) as address,
    ):
        yield address


def _states(address: str, **labels: str) -> dict[str, set[str]]:
    """Alertmanager's alerts of these labels: alert name, severity and KPI, by state."""
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    found = requests.get(f"http://{address}/api/v2/alerts", params={"filter": wanted}, timeout=10).json()
    states: dict[str, set[str]] = {"active": set(), "suppressed": set(), "unprocessed": set()}
    for alert in found:
        names = (alert["labels"].get(name) for name in ("alertname", "severity", "kpi"))
        states[alert["status"]["state"]].add(" ".join(filter(None, names)))
    return states


def _good(exporter: Exporter, persona: str) -> None:
    """Version 1, thirty hours old: 3% out of scope, 1% errors, 4% slow."""
    labels: LabelSet = ("chat", persona, "1")
    exporter.declare(labels, age_seconds=30 * 3600)
    exporter.count(labels, 9_600, seconds=0.4, out_of_scope=300)
    exporter.count(labels, 400, seconds=0.9, errors=100)
    exporter.predecessors[persona, "2"] = "1"


def test_a_bad_version_gives_exactly_one_notification(
    prometheus: Path, notifier: str, inbox: Inbox, tmp_path: Path
) -> None:
    exporter = Exporter()
    for persona in ("concierge", "coach"):
        _good(exporter, persona)
    with running(prometheus, tmp_path, exporter, alertmanager=notifier) as asked:
        asked.wait_for("count(kpi:drift:baseline)", 6)

        # Version 2 first answers out of scope, later fails and is slow as well.
        bad: LabelSet = ("chat", "concierge", "2")
        exporter.count(bad, 24, seconds=0.4)
        exporter.count(bad, 16, seconds=0.4, out_of_scope=16)
        wait_for("a notification", DEADLINE_SECONDS, lambda: inbox.alerts(persona="concierge"))
        exporter.count(bad, 60, seconds=8.0, errors=30)

        everything = {
            *(f"ConfigVersionRegression page {k}" for k in ("llm_error_rate", "p95_latency_ms")),
            *(f"OutOfScopeDrift {severity} out_of_scope_rate" for severity in ("page", "ticket")),
            *(f"LlmErrorDrift {severity} llm_error_rate" for severity in ("page", "ticket")),
            *(f"LatencyDrift {severity} p95_latency_ms" for severity in ("page", "ticket")),
        }
        wait_for(
            "all other alerts suppressed",
            DEADLINE_SECONDS,
            lambda: (
                _states(notifier, persona="concierge")
                == {
                    "active": {"ConfigVersionRegression page out_of_scope_rate"},
                    "suppressed": everything,
                    "unprocessed": set(),
                }
            ),
        )
        # Another persona's notification, and some rounds more, prove that nothing else was on its way.
        exporter.count(("chat", "coach", "2"), 40, seconds=0.4, out_of_scope=20)
        wait_for("the other persona", DEADLINE_SECONDS, lambda: inbox.alerts(persona="coach"))
        time.sleep(3 * GROUP_INTERVAL_SECONDS)
    once = [("firing", ["ConfigVersionRegression"])]
    assert inbox.alerts(persona="concierge") == once
    assert inbox.alerts(persona="coach") == once
    assert len(inbox.messages) == 2


def _post(address: str, *alerts: Json) -> None:
    now = datetime.now(UTC).isoformat()
    body = [{"labels": alert, "startsAt": now} for alert in alerts]
    requests.post(f"http://{address}/api/v2/alerts", json=body, timeout=10).raise_for_status()


def test_a_page_silences_the_tickets_of_its_persona_alone(notifier: str, inbox: Inbox) -> None:
    ticket = {"alertname": "OutOfScopeDrift", "severity": "ticket", "journey": "chat", "config_version": "1"}
    page = ticket | {"alertname": "LlmErrorDrift", "severity": "page"}
    _post(
        notifier,
        page | {"persona": "concierge"},
        ticket | {"persona": "concierge"},
        ticket | {"persona": "coach"},
    )
    wait_for("both personas", DEADLINE_SECONDS, lambda: len(inbox.messages) == 2)
    assert inbox.alerts(persona="concierge") == [("firing", ["LlmErrorDrift"])]
    assert inbox.alerts(persona="coach") == [("firing", ["OutOfScopeDrift"])]


def test_a_silence_is_told_unless_the_exporter_is_down(notifier: str, inbox: Inbox) -> None:
    silence = {"alertname": "ConversationSilence", "severity": "page", "journey": "chat"}
    _post(notifier, silence | {"persona": "concierge"})
    wait_for("the silence", DEADLINE_SECONDS, lambda: inbox.alerts(persona="concierge"))
    down = {"alertname": "ExporterDown", "severity": "page", "job": "exporter", "instance": "exporter:9810"}
    _post(notifier, down, silence | {"persona": "coach"})
    wait_for("the exporter", DEADLINE_SECONDS, lambda: inbox.alerts(alertname="ExporterDown"))
    wait_for(
        "the silence suppressed",
        DEADLINE_SECONDS,
        lambda: _states(notifier, persona="coach")["suppressed"] == {"ConversationSilence page"},
    )
    assert inbox.alerts(persona="coach") == []
