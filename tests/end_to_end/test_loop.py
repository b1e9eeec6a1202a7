"""The product does its job: a careless configuration, an alert, a click in Chromium, health again.

Everything is real: `driftback up --demo` starts Prometheus, Alertmanager, the services and their traffic.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page

from config_rollback.auth.tokens import mint_access_token
from tests.support.browser import browser_page
from tests.support.stacks import DRIFTBACK, ROOT, RunningStack, free_offset, processes_of, stack, wait_for

pytestmark = pytest.mark.end_to_end

PERSONA = "concierge"
FIRES_WITHIN, RESOLVES_WITHIN, FOLLOWS_WITHIN = 180, 600, 2
UNFURLERS = ("Slackbot-LinkExpanding 1.0", "facebookexternalhit/1.1", "Mozilla/5.0 (compatible; Outlook-iOS)")


def _api(running: RunningStack, path: str) -> Any:
    answer = requests.get(running.url("config_rollback") + path, headers=running.ops, timeout=10)
    answer.raise_for_status()
    return answer.json()["data"]


def _active(running: RunningStack, persona: str = PERSONA) -> int:
    rows = _api(running, "/v1/ops/personas")
    return int(next(row["active_version"] for row in rows if row["persona"] == persona))


def _audit(running: RunningStack) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _api(running, "/v1/ops/audit")
    return rows


def _query(running: RunningStack, expression: str) -> list[dict[str, Any]]:
    answer = requests.get(
        running.url("prometheus") + "/api/v1/query", params={"query": expression}, timeout=10
    )
    answer.raise_for_status()
    result: list[dict[str, Any]] = answer.json()["data"]["result"]
    return result


def _alerts(running: RunningStack, version: int) -> list[dict[str, Any]]:
    answer = requests.get(
        running.url("alertmanager") + "/api/v2/alerts",
        params={"active": "true", "filter": [f'persona="{PERSONA}"', f'config_version="{version}"']},
        timeout=10,
    )
    answer.raise_for_status()
    alerts: list[dict[str, Any]] = answer.json()
    return alerts


def _all_targets_up(running: RunningStack) -> bool:
    answer = requests.get(running.url("prometheus") + "/api/v1/targets?state=active", timeout=10).json()
    targets = answer["data"]["activeTargets"]
    jobs = {target["labels"]["job"] for target in targets}
    return {"exporter", "config_rollback", "prometheus", "alertmanager"} <= jobs and all(
        target["health"] == "up" for target in targets
    )


def _kpis(running: RunningStack, journey: str) -> Any:
    return _api(running, f"/v1/ops/monitoring/conversation-kpis?window=1h&journey={journey}")


def _rollback(running: RunningStack, headers: dict[str, str], expected: int) -> requests.Response:
    return requests.post(
        f"{running.url('config_rollback')}/v1/ops/personas/{PERSONA}/rollback",
        json={"expected_version": expected},
        headers={**headers, "Idempotency-Key": str(uuid.uuid4())},
        timeout=10,
    )


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


def test_the_whole_loop(tmp_path: Path, page: Page) -> None:
    state, offset = tmp_path / "state", free_offset()
    with stack(state, "--demo", "--careless-after", "60", offset=offset) as running:
        wait_for("targets up", 30, lambda: _all_targets_up(running))
        _both_journeys_have_kpis(running)
        alert = _the_bad_version_raises_an_alert(running)
        link = alert["annotations"]["rollback_url"]
        _looking_changes_nothing(running, link)
        _others_than_ops_are_refused_and_audited(running)
        _without_audit_no_rollback(running, state)
        _the_click_restores_the_services(running, page, link)
        _a_second_click_changes_nothing(running, page, link)
        _the_audit_row_is_listed(running)
        wait_for("resolved alert", RESOLVES_WITHIN, lambda: not _alerts(running, 2), pause=2)
        wait_for("resolved row in the inbox", 120, lambda: _inbox_is_quiet(running), pause=2)
        messages = _messages(running)
    assert processes_of(state) == []

    with stack(state, "--demo", "--careless-after", "3600", offset=offset) as running:
        assert _active(running) == 1
        assert _api(running, "/v1/ops/audit/verify")["valid"] is True
        assert _messages(running) >= messages, "the exporter's counters went on from where they were"
        wait_for("traffic after the restart", 60, lambda: _messages(running) > messages)
        careless = ROOT / "examples" / "personas" / f"{PERSONA}-careless.yaml"
        publish = f"{DRIFTBACK} persona publish {careless} --from 1 --yes --state-dir {state}"
        subprocess.run(publish.split(), check=True)
        assert _active(running) == 3
    assert processes_of(state) == []

    # Ended before the click: the next demo begins with a healthy persona.
    with stack(state, "--demo", "--careless-after", "3600", offset=offset) as running:
        healthy, now = (_api(running, f"/v1/ops/personas/{PERSONA}/versions/{number}") for number in (1, 4))
        assert now["config"] == healthy["config"]
        assert _active(running) == 4


def _both_journeys_have_kpis(running: RunningStack) -> None:
    for journey in ("chat", "guidance"):
        recorded = f'kpi:messages_total{{scope="journey", journey="{journey}", window="1h"}}'
        wait_for(  # a journey of which there is nothing yet is refused as soon as there is another
            f"series of {journey}",
            60,
            lambda recorded=recorded: _query(running, recorded),  # type: ignore[misc]
        )
        kpis = wait_for(
            f"KPI of {journey}",
            60,
            lambda journey=journey: _with_messages(_kpis(running, journey)),  # type: ignore[misc]
        )
        assert 0 <= kpis["kpis"]["llm_error_rate"]["value"] <= 1
        assert kpis["kpis"]["p95_latency_ms"]["value"] > 0


def _with_messages(kpis: Any) -> Any:
    return kpis if kpis["kpis"]["messages_total"]["value"] else None


def _the_bad_version_raises_an_alert(running: RunningStack) -> dict[str, Any]:
    wait_for("careless version", 120, lambda: _active(running) == 2)
    alert = wait_for("page", FIRES_WITHIN, lambda: _pages(running, 2))[0]
    expected = (
        f"{running.url('config_rollback')}/rollback/{PERSONA}?from=2&alert={alert['labels']['alertname']}"
    )
    assert alert["annotations"]["rollback_url"] == expected
    wait_for("alert in the inbox", 60, lambda: not _inbox_is_quiet(running))
    return alert


def _pages(running: RunningStack, version: int) -> list[dict[str, Any]]:
    return [alert for alert in _alerts(running, version) if alert["labels"]["severity"] == "page"]


def _inbox_is_quiet(running: RunningStack) -> bool:
    """Whether config_rollback's own record says that no alert about the persona fires."""
    database = Path(running.info["state_dir"]) / "data" / "config_rollback" / "config_rollback.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM alerts WHERE persona = ? AND status = 'firing'"
        (count,) = connection.execute(query, (PERSONA,)).fetchone()
    connection.close()
    return int(count) == 0


def _looking_changes_nothing(running: RunningStack, link: str) -> None:
    before = (_active(running), len(_audit(running)))
    for agent in UNFURLERS:
        for method in ("GET", "HEAD"):
            for _ in range(17):
                answer = requests.request(method, link, headers={"User-Agent": agent}, timeout=10)
                assert answer.status_code == 200
    assert (_active(running), len(_audit(running))) == before


def _others_than_ops_are_refused_and_audited(running: RunningStack) -> None:
    state = Path(running.info["state_dir"])
    secret = (state / "secrets" / "jwt_secret").read_text().strip()
    for role in ("user", "support"):
        token = mint_access_token(secret, subject=f"a-{role}", role=role)
        answer = _rollback(running, {"Authorization": f"Bearer {token}"}, expected=2)
        assert answer.status_code == 403, answer.text
        assert answer.json()["error"]["code"] == "forbidden"
        row = _audit(running)[0]
        assert (row["actor"], row["role"], row["error_code"]) == (f"a-{role}", role, "forbidden")
        assert row["request_id"] == answer.json()["request_id"]
    assert _active(running) == 2


def _without_audit_no_rollback(running: RunningStack, state: Path) -> None:
    database = sqlite3.connect(state / "data" / "config_rollback" / "config_rollback.db", timeout=10)
    try:
        database.execute("ALTER TABLE audit RENAME TO audit_away")
        database.commit()
        answer = _rollback(running, running.ops, expected=2)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "audit_unavailable"
    finally:
        database.execute("ALTER TABLE audit_away RENAME TO audit")
        database.commit()
        database.close()
    assert _active(running) == 2


def _the_click_restores_the_services(running: RunningStack, page: Page, link: str) -> None:
    page.goto(link)
    assert "log in" in page.inner_text("body").lower()
    page.goto(running.info["login_link"])
    page.click("#login-button")
    page.goto(link)
    assert page.is_visible("#rollback-button")
    assert "allowed_topics" in page.inner_text("body")
    assert _active(running) == 2, "looking changed something"
    clicked = time.monotonic()
    page.click("#rollback-button", no_wait_after=True)
    wait_for("restored service", FOLLOWS_WITHIN, lambda: _served(running) == 1, pause=0.02)
    assert time.monotonic() - clicked < FOLLOWS_WITHIN
    page.wait_for_selector("#rollback-result")
    result = page.locator("#rollback-result")
    assert result.get_attribute("data-status") == "succeeded"
    row = _audit(running)[0]
    assert result.get_attribute("data-audit-id") == str(row["audit_id"])


def _served(running: RunningStack) -> int:
    answer = requests.get(f"{running.url('chat')}/active-version", timeout=2)
    return int(answer.json()["config_version"])


def _a_second_click_changes_nothing(running: RunningStack, page: Page, link: str) -> None:
    before = len([row for row in _audit(running) if row["status"] == "succeeded"])
    opened = page.goto(link)
    assert opened is not None
    assert opened.status == 409
    assert "config_changed_since_alert" in page.inner_text("body")
    assert page.locator("#rollback-button").count() == 0
    answer = _rollback(running, running.ops, expected=2)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "config_changed_since_alert"
    assert _active(running) == 1
    assert len([row for row in _audit(running) if row["status"] == "succeeded"]) == before


def _the_audit_row_is_listed(running: RunningStack) -> None:
    listed = running.command("audit", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    rows = rows["data"] if isinstance(rows, dict) else rows
    done = [row for row in rows if row["action"] == "rollback" and row["status"] == "succeeded"]
    assert [(row["persona"], row["from_version"], row["to_version"]) for row in done] == [(PERSONA, 2, 1)]


def _messages(running: RunningStack) -> float:
    """Messages that the exporter holds, over all its label sets."""
    text = requests.get(running.url("exporter") + "/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("conversation_messages_total{")]
    assert lines
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
