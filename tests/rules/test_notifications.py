"""One cause, one notification: committed rules and routes in a real Prometheus and Alertmanager."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.rules.live import Exporter, LabelSet, running
from tests.support import web
from tests.support.monitoring import alertmanager
from tests.support.processes import DEADLINE_SECONDS
from tests.support.stacks import wait_for

GROUP_WAIT = "5s"
"""In place of the committed ten seconds: Prometheus sends the alerts of one evaluation one by one."""
GROUP_INTERVAL_SECONDS = 1
"""What most tests put in place of the committed minute."""

Json = dict[str, Any]


class Inbox:
    """Keeps what Alertmanager's webhook sends."""

    def __init__(self) -> None:
        self.messages: list[Json] = []

    def take(self, body: bytes) -> web.Answer:
        """Keeps a notification."""
        self.messages.append(json.loads(body))
        return 200, "text/plain", b""

    def alerts(self, **labels: str) -> list[tuple[str, list[str]]]:
        """(status, names and severities of alerts) of every notification for these labels, in order."""
        return [
            (
                message["status"],
                sorted(
                    f"{alert['labels']['alertname']} {alert['labels']['severity']}"
                    for alert in message["alerts"]
                ),
            )
            for message in self.messages
            if message["groupLabels"] == labels
        ]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def group_interval() -> int:
    return GROUP_INTERVAL_SECONDS


@pytest.fixture
def notifier(tmp_path: Path, inbox: Inbox, group_interval: int) -> Iterator[str]:
    """Host and port of an Alertmanager with the committed routes; its webhook fills the inbox."""
    with (
        web.serving(inbox.take) as webhook,
        alertmanager(
            tmp_path / "alertmanager",
            f"http://{webhook}",
            group_wait=GROUP_WAIT,
            group_interval=f"{group_interval}s",
        ) as address,
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


def _good(exporter: Exporter, persona: str, age_seconds: float = 30 * 3600) -> None:
    """Version 1: 3% out of scope, 1% errors, 4% slow."""
    labels: LabelSet = ("chat", persona, "1")
    exporter.declare(labels, age_seconds=age_seconds)
    exporter.count(labels, 9_600, seconds=0.4, out_of_scope=300)
    exporter.count(labels, 400, seconds=0.9, errors=100)
    exporter.predecessors[persona, "2"] = "1"


def test_a_bad_version_gives_exactly_one_notification(notifier: str, inbox: Inbox, tmp_path: Path) -> None:
    exporter = Exporter()
    for persona in ("concierge", "coach"):
        _good(exporter, persona)
    with running(tmp_path, exporter, alertmanager=notifier) as asked:
        asked.wait_for("count(kpi:drift:baseline)", 6)

        # Version 2 first answers out of scope, later fails and is slow as well.
        bad: LabelSet = ("chat", "concierge", "2")
        exporter.count(bad, 24, seconds=0.4)
        exporter.count(bad, 16, seconds=0.4, out_of_scope=16)
        wait_for("a notification", DEADLINE_SECONDS, lambda: inbox.alerts(persona="concierge"))
        exporter.count(bad, 60, seconds=8.0, errors=30)

        everything = {
            "ConfigVersionRegression ticket out_of_scope_rate",
            *(
                f"ConfigVersionRegression {severity} {kpi}"
                for kpi in ("llm_error_rate", "p95_latency_ms")
                for severity in ("page", "ticket")
            ),
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
    once = [("firing", ["ConfigVersionRegression page"])]
    assert inbox.alerts(persona="concierge") == once
    assert inbox.alerts(persona="coach") == once
    assert len(inbox.messages) == 2


@pytest.mark.parametrize("group_interval", [5])
def test_a_ticket_that_becomes_a_page_is_told_once_more_and_both_end_in_one_notification(
    notifier: str, inbox: Inbox, tmp_path: Path, group_interval: int
) -> None:
    exporter = Exporter()
    # Too young for a past of its own, and thereby for drift: that begins and ends in the same evaluations,
    # whose alerts come one by one, and a round of the group between them would tell both.
    _good(exporter, "concierge", age_seconds=3 * 3600)
    bad: LabelSet = ("chat", "concierge", "2")
    with running(tmp_path, exporter, alertmanager=notifier) as asked:
        asked.wait_for('count(kpi:messages:last{config_version="1"})', 1)
        exporter.count(bad, 32, seconds=0.4)
        exporter.count(bad, 8, seconds=0.4, out_of_scope=8)  # certain, but few
        wait_for("the ticket", DEADLINE_SECONDS, lambda: len(inbox.messages) == 1)
        exporter.count(bad, 12, seconds=0.4, out_of_scope=12)
        wait_for("the page", DEADLINE_SECONDS, lambda: len(inbox.messages) == 2, pause=0.1)
        told = time.monotonic()
        # From now on it makes no mistake: the difference falls below what a page or a ticket begins with.
        exporter.count(bad, 198, seconds=0.4)
        asked.wait_for("count(kpi:version:z < 3.5)", 1)
        time.sleep(2 * group_interval)
        # Ticket and page end one after the other as well: early between two rounds, for both in the next one.
        time.sleep((told - time.monotonic()) % group_interval)
        exporter.accepted["concierge"] = time.time()
        wait_for("the end", DEADLINE_SECONDS, lambda: len(inbox.messages) == 3)
        time.sleep(2 * group_interval)
    ticket, page, (status, ended) = inbox.alerts(persona="concierge")
    assert ticket == ("firing", ["ConfigVersionRegression ticket"])
    assert page == ("firing", ["ConfigVersionRegression page"])
    assert status == "resolved"
    assert {"ConfigVersionRegression ticket", "ConfigVersionRegression page"} <= set(ended)
    assert len(inbox.messages) == 3


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
    assert inbox.alerts(persona="concierge") == [("firing", ["LlmErrorDrift page"])]
    assert inbox.alerts(persona="coach") == [("firing", ["OutOfScopeDrift ticket"])]


def test_a_named_version_explains_its_drift_but_a_ticket_holds_back_no_page(
    notifier: str, inbox: Inbox
) -> None:
    labels = {"journey": "chat", "config_version": "2", "kpi": "out_of_scope_rate"}
    version, drift = ({"alertname": name} for name in ("ConfigVersionRegression", "OutOfScopeDrift"))
    ticket, page = ({"severity": severity} for severity in ("ticket", "page"))
    told = {
        "a": ([version | ticket, drift | ticket], "ConfigVersionRegression ticket"),
        "b": ([version | ticket, drift | page], "OutOfScopeDrift page"),
        "c": ([version | page, drift | page], "ConfigVersionRegression page"),
    }
    _post(notifier, *(labels | alert | {"persona": p} for p, (alerts, _) in told.items() for alert in alerts))
    wait_for("all personas", DEADLINE_SECONDS, lambda: len(inbox.messages) == len(told))
    for persona, (_, expected) in told.items():
        assert inbox.alerts(persona=persona) == [("firing", [expected])]


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
