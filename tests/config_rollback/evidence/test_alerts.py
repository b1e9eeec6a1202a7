"""The inbox of Alertmanager's webhook."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import yaml
from sqlalchemy import event

from config_rollback.evidence.inbox import HEARD_WITHIN
from tests.config_rollback.running import ALERTMANAGER_TOKEN, Browser, Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.stacks import ROOT

NEVER = "0001-01-01T00:00:00Z"


def alert(**changes: Any) -> dict[str, Any]:
    """An alert as Alertmanager sends it."""
    return {
        "status": "firing",
        "labels": {
            "alertname": "OutOfScopeDrift",
            "persona": "concierge",
            "journey": "chat",
            "config_version": "2",
            "severity": "page",
        },
        "annotations": {
            "summary": "concierge drifts",
            "description": "53 of 184 messages of version 2 in chat were out of scope",
            "dashboard_url": "http://127.0.0.1:3000/d/driftback-persona",
        },
        "startsAt": "2026-03-01T11:55:00.123456789Z",
        "endsAt": NEVER,
        "generatorURL": "http://127.0.0.1:9090/graph",
        "fingerprint": "a1b2c3d4e5f60718",
    } | changes


def message(*alerts: dict[str, Any]) -> dict[str, Any]:
    """A webhook message, version 4."""
    return {
        "version": "4",
        "groupKey": '{}:{persona="concierge"}',
        "truncatedAlerts": 0,
        "status": alerts[0]["status"] if alerts else "firing",
        "receiver": "config_rollback",
        "groupLabels": {"persona": "concierge"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://127.0.0.1:9093",
        "alerts": list(alerts),
    }


def send(service: Service, *alerts: dict[str, Any]) -> Any:
    answer = service.request("POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json=message(*alerts))
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def rows(service: Service) -> list[tuple[Any, ...]]:
    return service.database.execute("SELECT fingerprint, status, ends_at FROM alerts ORDER BY alert_id")


def test_a_repeated_message_is_recorded_once(service: Service) -> None:
    assert send(service, alert()) == {"received": 1, "new": 1}
    assert send(service, alert()) == {"received": 1, "new": 0}
    assert rows(service) == [("a1b2c3d4e5f60718", "firing", None)]
    text = service.request("GET", "/metrics").text
    assert 'config_alerts_received_total{status="firing"} 2.0' in text


def test_what_fires_is_repeated_before_it_counts_as_not_heard_of() -> None:
    route = yaml.safe_load((ROOT / "prometheus" / "alertmanager.yml").read_text())["route"]
    hours, minutes = route["repeat_interval"].removesuffix("h"), route["group_interval"].removesuffix("m")
    assert timedelta(hours=int(hours), minutes=int(minutes)) < HEARD_WITHIN


def test_the_same_alert_with_a_new_start_is_another(service: Service) -> None:
    send(service, alert(), alert(startsAt="2026-03-01T11:59:00Z"), alert(fingerprint="f"))
    assert len(rows(service)) == 3


def test_a_resolved_alert_has_an_end(service: Service) -> None:
    send(service, alert())
    send(service, alert(status="resolved", endsAt="2026-03-01T12:05:00Z"))
    ((fingerprint, status, ends_at),) = rows(service)
    assert (fingerprint, status) == ("a1b2c3d4e5f60718", "resolved")
    # SQLite gives text, PostgreSQL a moment in the session's time zone, UTC.
    assert str(ends_at).startswith("2026-03-01 12:05:00")


def test_a_late_copy_does_not_bring_a_resolved_alert_back(service: Service) -> None:
    send(service, alert(status="resolved", endsAt="2026-03-01T12:05:00Z"))
    for _ in range(3):
        service.clock.move(seconds=4)
        send(service, alert())
        assert rows(service)[0][1] == "resolved"


def test_an_alert_told_again_after_its_end_fires_again(service: Service, browser: Browser) -> None:
    """Alertmanager ends what Prometheus stopped telling it, and gets it back with the same start."""
    send(service, alert())
    send(service, alert(status="resolved", endsAt="2026-03-01T12:05:00Z"))
    service.clock.move(minutes=1)
    assert send(service, alert()) == {"received": 1, "new": 0}
    assert [row[1:] for row in rows(service)] == [("firing", None)]
    assert "1 alert is firing." in browser.get("/alerts").text
    send(service, alert(status="resolved", endsAt="2026-03-01T12:09:00Z"))
    assert rows(service)[0][1] == "resolved"


@pytest.mark.parametrize("page", ["/alerts", "/"])
def test_many_that_ended_or_are_not_heard_of_hide_none_that_fires(
    service: Service, browser: Browser, page: str
) -> None:
    service.publish()
    old = alert(labels=alert()["labels"] | {"config_version": "1"}, startsAt="2026-02-28T12:00:00Z")
    others = [
        alert(fingerprint=f"{status}{number}", status=status, endsAt=NEVER, labels={"alertname": "Other"})
        for number in range(200)
        for status in ("firing", "resolved")
    ]
    send(service, *others)
    service.clock.move(hours=6)
    send(service, old)
    text = browser.get(page).text
    assert "concierge drifts" in text
    assert text.count('class="badge firing"') == 1


def test_a_ticket_and_a_page_of_one_cause_differ(service: Service, browser: Browser) -> None:
    service.publish()
    service.publish(temperature=1)
    send(service, alert(), alert(fingerprint="f", labels=alert()["labels"] | {"severity": "ticket"}))
    for path in ("/", "/alerts", "/rollback/concierge?from=2"):
        text = browser.get(path).text
        assert re.findall(r'data-testid="severity">(\w+)<', text) == ["ticket", "page"]


def test_one_message_may_tell_of_an_alert_twice_and_of_old_and_new_ones(service: Service) -> None:
    send(service, alert())
    resolved = alert(fingerprint="f", status="resolved", endsAt="2026-03-01T12:05:00Z")
    told = [alert(fingerprint="f"), resolved, alert(fingerprint="f"), alert(annotations={"summary": "later"})]
    assert send(service, *told) == {"received": 4, "new": 1}
    assert [row[:2] for row in rows(service)] == [("a1b2c3d4e5f60718", "firing"), ("f", "resolved")]
    assert service.database.execute("SELECT annotations_json FROM alerts WHERE fingerprint <> 'f'") == [
        ('{"summary": "later"}',)
    ]


def test_what_a_message_costs_the_database_does_not_grow_with_its_alerts(service: Service) -> None:
    engine = service.app.state.dependencies.store.engine
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)

    def cost(first: int, count: int) -> int:
        statements.clear()
        service.clock.move(seconds=1)
        sent = [alert(fingerprint=str(number)) for number in range(first, first + count)]
        assert send(service, *sent)["received"] == count
        return sum("alerts" in statement for statement in statements)

    assert cost(0, 2) == cost(2, 400) == 2, "one to find, one to add"
    assert cost(0, 2) == cost(0, 402) == 2, "one to find, one to change"


def test_alerts_without_a_persona_are_kept_too(service: Service) -> None:
    assert send(service, alert(labels={"alertname": "ExporterDown"}))["new"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"startsAt": "yesterday"},
        {"startsAt": "2026-03-01T11:55:00"},
        {"labels": {"persona": 7}},
        {"status": "burning"},
        {"fingerprint": ""},
        {"fingerprint": "\0"},
        {"fingerprint": "f", "labels": {"alertname": "\0"}},
        {"startsAt": "0001-01-01T00:00:00+14:00"},
        {"endsAt": "9999-12-31T23:59:59-14:00", "status": "resolved"},
    ],
    ids=str,
)
def test_what_alertmanager_would_not_send_is_refused(quiet_service: Service, change: dict[str, Any]) -> None:
    answer = quiet_service.request(
        "POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json=message(alert(), alert(**change))
    )
    assert error(answer) == (422, "invalid_request")
    assert rows(quiet_service) == []


def test_another_version_of_the_webhook_is_refused(quiet_service: Service) -> None:
    body = message(alert()) | {"version": "5"}
    answer = quiet_service.request("POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json=body)
    assert error(answer) == (422, "invalid_request")


def grafana_message(**changes: Any) -> dict[str, Any]:
    """A message as Grafana's own webhook contact point sends it, of a rule that is on a dashboard."""
    told = alert()
    told |= {
        "labels": told["labels"] | {"grafana_folder": "Driftback"},
        "startsAt": "2026-03-01T12:55:00.157076+01:00",
        "annotations": {"summary": "concierge drifts", "__dashboardUid__": "driftback-persona"},
        "generatorURL": "http://127.0.0.1:3000/alerting/grafana/1afz29v7z/view?orgId=1",
        "silenceURL": "http://127.0.0.1:3000/alerting/silence/new?alertmanager=grafana&matcher=alertname%3DT2",
        "dashboardURL": "http://127.0.0.1:3000/d/driftback-persona?orgId=1",
        "panelURL": "http://127.0.0.1:3000/d/driftback-persona?orgId=1&viewPanel=1",
        "values": {"B": 44.23943737541908, "C": 1},
        "valueString": "[ var='B' labels={persona=concierge} value=44.23943737541908 ]",
        "orgId": 1,
    }
    return message(told | changes) | {
        "version": "1",
        "orgId": 1,
        "externalURL": "http://127.0.0.1:3000/",
        "groupKey": '{}/{}:{grafana_folder="Driftback"}',
        "title": "[FIRING:1] OutOfScopeDrift (concierge)",
        "state": "alerting",
        "message": "**Firing**\n\nValue: B=44.23943737541908, C=1\n",
    }


def test_grafanas_own_webhook_is_taken_as_alertmanagers(service: Service, browser: Browser) -> None:
    on_no_dashboard = grafana_message(fingerprint="f", values=None, dashboardURL="", panelURL="")
    for body in (grafana_message(), on_no_dashboard):
        answer = service.request("POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json=body)
        assert answer.status_code == 200, answer.text
    assert rows(service) == [("a1b2c3d4e5f60718", "firing", None), ("f", "firing", None)]
    page = browser.get("/alerts").text
    assert 'href="/rollback/concierge?from=2&amp;alert=OutOfScopeDrift"' in page
    assert page.count('href="http://127.0.0.1:3000/d/driftback-persona?orgId=1"') == 1
    ended = grafana_message(status="resolved", endsAt="2026-03-01T13:05:00.5+01:00") | {"state": "ok"}
    service.request("POST", "/v1/alerts", token=ALERTMANAGER_TOKEN, json=ended)
    assert rows(service)[0][1] == "resolved"


def test_the_page_shows_firing_alerts_with_the_way_to_the_rollback(
    service: Service, browser: Browser
) -> None:
    assert "No alert is firing." in browser.get("/alerts").text
    send(service, alert(), alert(fingerprint="f", status="resolved", endsAt="2026-03-01T12:00:00Z"))
    page = browser.get("/alerts").text
    assert page.count('data-testid="alert"') == 2
    assert "concierge drifts" in page
    assert 'href="/rollback/concierge?from=2&amp;alert=OutOfScopeDrift"' in page
    assert 'href="http://127.0.0.1:3000/d/driftback-persona"' in page


def test_a_link_that_is_no_web_address_is_not_shown(service: Service, browser: Browser) -> None:
    send(service, alert(annotations={"summary": "s", "dashboard_url": "javascript:alert(1)"}))
    assert "javascript:" not in browser.get("/alerts").text
