"""The figures on the pages, and what the pages say without them."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable

import pytest

from config_rollback.evidence import kpis
from config_rollback.outgoing.sessions import MAX_DOCUMENT_BYTES
from config_rollback.web.pages import evidence
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.evidence.test_alerts import alert, send
from tests.config_rollback.evidence.test_kpis import HEALTHY, Prometheus, prometheus
from tests.config_rollback.running import Browser, Service
from tests.config_rollback.web.test_pages import attribute, form

__all__ = ["prometheus"]

LINK = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
ALL_RATES = ("out_of_scope_rate", "llm_error_rate", "p95_latency_ms")
COUNTS = ("messages", "scoped_messages", "out_of_scope", "llm_errors")


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy: only the test of a Prometheus that hangs is about time."""
    monkeypatch.setattr(evidence, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr(kpis, "TOTAL_SECONDS", 60.0)


@pytest.fixture
def service(start: Callable[..., Service], prometheus: Prometheus) -> Service:
    """A service with that Prometheus, and a persona whose version 2 is bad."""
    service = start(prometheus_url=prometheus.url)
    service.publish(note="reviewed")
    service.publish(note="tidied", allowed_topics=["orders"])
    return service


def by_query(prometheus: Prometheus, choose: Callable[[str], dict[str, float]]) -> None:
    """Answers each query by its text."""
    prometheus.values_of = lambda query: HEALTHY | choose(query)  # type: ignore[method-assign]


def test_the_decision_shows_both_versions_with_counts_and_intervals(
    service: Service, browser: Browser, prometheus: Prometheus
) -> None:
    prometheus.values |= dict(zip(COUNTS, (200.0, 200.0, 50.0, 2.0), strict=True))
    send(service, alert())
    page = browser.get(LINK).text
    assert attribute(page.replace('data-testid="kpis"', 'id="kpis"'), "kpis", "data-window") == "1h"
    assert page.count("50 of 200") == 2
    assert "25%" in page
    assert "20% to 31%" in page  # Wilson's interval of 50 in 200
    assert "led you here" in page
    versions = {1, 2}
    assert all(any(f'config_version="{n}"' in query for query in prometheus.queries) for n in versions)


def test_p95_has_an_interval_and_what_is_surely_worse_is_marked(
    service: Service, browser: Browser, prometheus: Prometheus
) -> None:
    bad = {"out_of_scope": 400.0, "p95_latency_ms": 1390.0, "p95_low": 1300.0, "p95_high": 1500.0}
    by_query(prometheus, lambda query: bad if 'config_version="2"' in query else {})
    page = browser.get(LINK).text
    rows = {name: page.partition(f'data-kpi="{name}"')[2].partition("</tr>")[0] for name in ALL_RATES}
    assert {name: row.count(">worse<") for name, row in rows.items()} == {
        "out_of_scope_rate": 1,
        "llm_error_rate": 0,
        "p95_latency_ms": 0,  # 1,300 to 1,500 overlaps with 1,100 to 1,400
    }
    cells = rows["out_of_scope_rate"].split("<td")
    assert ">worse<" in cells[1], "version 2, which is active"
    assert "1,300 to 1,500 ms" in rows["p95_latency_ms"]
    assert "of 1,000" in rows["p95_latency_ms"]


def test_what_came_after_a_rollback_is_counted_from_it_on(
    service: Service, browser: Browser, prometheus: Prometheus
) -> None:
    """Version 1 served 289 messages before version 2, and 5 since the rollback at 12:00."""
    before, after, left = (
        dict(zip(COUNTS, counts, strict=True))
        for counts in ((289.0, 289.0, 8.0, 1.0), (0.0, 0.0, 0.0, 0.0), (70.0, 70.0, 35.0, 0.0))
    )
    since = f"@ {service.clock().timestamp():.3f}"

    def counted(query: str) -> dict[str, float]:
        if 'config_version="2"' in query:
            return left
        return after if since in query else before

    by_query(prometheus, counted)
    browser.post("/rollback/concierge", form(browser.get(LINK).text))
    result = browser.get("/rollback/concierge?result=3").text
    caption = result.partition("<caption>")[2].partition("</caption>")[0]
    assert "Version 2 in the last hour, version 1 since" in caption
    assert "1 Mar 2026, 12:00:00 UTC</time>" in caption
    table = result.partition('data-testid="kpis"')[2].partition("</table>")[0]
    assert "35 of 70" in table
    assert "289" not in table, "that is from before"
    assert "none yet" in table
    assert "needs a minute or two to see the first messages of version 1" in result
    after |= dict(zip(COUNTS, (5.0, 5.0, 1.0, 0.0), strict=True))
    service.clock.move(minutes=2)
    result = browser.get("/rollback/concierge?result=3").text
    assert "1 of 5" in result
    assert "a minute or two" not in result


def test_the_text_of_an_alert_says_when_it_was_told(service: Service, browser: Browser) -> None:
    """Its figures are older than those of the table beside it."""
    send(service, alert())
    service.clock.move(minutes=10)
    page = browser.get(LINK).text
    assert "53 of 184 messages of version 2 in chat were out of scope" in page
    assert re.search(r"\(As of <time[^>]*>1 Mar 2026, 12:00:00 UTC</time>\.\)", page)


def test_where_processes_never_follow_the_result_shows_the_figures_all_the_same(
    service: Service, browser: Browser
) -> None:
    browser.post("/rollback/concierge", form(browser.get(LINK).text))
    service.clock.move(minutes=5)
    service.config("concierge", "?client=a&serving=2")
    page = browser.get("/rollback/concierge?result=3").text
    assert "Some processes have not followed" in page
    assert 'data-testid="kpis"' in page


def test_where_the_last_hour_is_silent_a_longer_window_is_shown(
    service: Service, browser: Browser, prometheus: Prometheus
) -> None:
    silent = dict.fromkeys(COUNTS, 0.0)
    by_query(prometheus, lambda query: silent if 'window="1h"' in query else {})
    assert 'data-window="24h"' in browser.get(LINK).text


def test_no_traffic_yet_is_said(service: Service, browser: Browser, prometheus: Prometheus) -> None:
    prometheus.values |= dict.fromkeys(COUNTS, 0.0)
    page = browser.get(LINK).text
    assert 'data-testid="kpi-quiet"' in page
    assert 'id="rollback-button"' in page


def answered(*rows: str) -> tuple[int, bytes]:
    return 200, f'{{"status": "success", "data": {{"result": [{", ".join(rows)}]}}}}'.encode()


def row(metric: str, value: str) -> str:
    return f'{{"metric": {{"kpi": "{metric}", "le": "+Inf", "journey": "another"}}, "value": {value}}}'


NONSENSE = {
    "it is not ready": (503, b""),
    "it is no JSON": (200, b"{"),
    "it is an error": (200, b'{"status": "error"}'),
    "it nests without end": (200, b"[" * 100_000),
    "it nests where nobody looks": (200, b'{"a": %s1%s}' % (b"[" * 100_000, b"]" * 100_000)),
    "it is too long": (200, b" " * (MAX_DOCUMENT_BYTES + 1)),
    "a bucket is negative": answered(row("latency_bucket", '[0, "-5"]')),
    "a bucket is no number": answered(row("latency_bucket", '[0, "NaN"]')),
    "a bucket is infinite": answered(row("latency_bucket", '[0, "+Inf"]')),
    "a count is negative": answered(row("messages", '[0, "-5"]')),
    "a value is missing": answered(row("messages", "[]")),
    "a value is no text": answered(row("messages", f"[0, 1{'0' * 400}]")),
    "it is about a journey that nobody asked for": answered(row("journey", '[0, "1"]')),
    "a row is a number": answered("7"),
}


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE.keys())
def test_46_without_prometheus_the_page_says_so_and_the_button_works(
    service: Service, browser: Browser, prometheus: Prometheus, raw: tuple[int, bytes]
) -> None:
    prometheus.raw = raw
    page = browser.get(LINK).text
    assert 'data-testid="kpi-problem"' in page
    assert "You can roll back without them." in page
    assert browser.post("/rollback/concierge", form(page)).status_code == 303
    result = browser.get("/rollback/concierge?result=3")
    assert result.status_code == 200
    assert 'data-testid="kpi-problem"' in result.text


def test_whatever_goes_wrong_with_the_figures_the_button_stays(
    service: Service, browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(kpis, "summarise", fail)
    page = browser.get(LINK).text
    assert "the KPI could not be read: see the log" in page
    assert browser.post("/rollback/concierge", form(page)).status_code == 303
    assert browser.get("/rollback/concierge?result=3").status_code == 200
    assert "evidence_failed" in caplog.text


@pytest.mark.parametrize(
    "labels",
    [
        {"alertname": "Dri\u202eft\n\u200b"},
        {"alertname": "x" * 100_000},
        {"alertname": ""},
        {"alertname": "a", "config_version": "other"},
        {"alertname": "a", "config_version": "0"},
    ],
    ids=["hidden characters", "a long name", "no name", "no version", "no version either"],
)
def test_every_link_of_an_alert_leads_to_a_button_that_works(
    service: Service, browser: Browser, labels: dict[str, str]
) -> None:
    send(service, alert(labels={"persona": "concierge", "config_version": "2"} | labels))
    for path in ("/alerts", "/"):
        links = re.findall(r'href="(/rollback/[^"]*)"', browser.get(path).text)
        assert len(links) == 1
        page = browser.get(html.unescape(links[0]))
        assert page.status_code == 200
        assert 'id="rollback-button"' in page.text
    assert browser.post("/rollback/concierge", form(page.text)).status_code == 303


def test_a_version_that_was_changed_in_the_database_can_be_left(
    service: Service, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    service.database.execute("DROP TRIGGER versions_no_update")
    service.database.execute("UPDATE versions SET config_json = '{' WHERE number = 2")
    page = browser.get(LINK).text
    assert "The two versions cannot be compared" in page
    assert browser.post("/rollback/concierge", form(page)).status_code == 303
    assert service.active_version() == 1
    assert "comparison_failed" in caplog.text


def test_a_prometheus_that_hangs_is_not_waited_for(
    service: Service, browser: Browser, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "WAIT_SECONDS", 0.5)
    let_go = threading.Event()
    original = prometheus.answer

    def hang(query: str) -> bytes:
        let_go.wait(60)
        return original(query)

    prometheus.answer = hang  # type: ignore[method-assign]
    try:
        page = browser.get(LINK).text
        assert "Prometheus does not answer in time" in page
        assert browser.post("/rollback/concierge", form(page)).status_code == 303
    finally:
        let_go.set()


def test_the_result_shows_before_and_after_once_all_have_followed(
    service: Service, browser: Browser, prometheus: Prometheus
) -> None:
    service.config("concierge", "?client=a&serving=2")
    browser.post("/rollback/concierge", form(browser.get(LINK).text))
    waiting = browser.get("/rollback/concierge?result=3").text
    assert 'http-equiv="refresh" content="1"' in waiting
    assert 'data-testid="kpis"' not in waiting
    service.config("concierge", "?client=a&serving=1")
    done = browser.get("/rollback/concierge?result=3").text
    assert 'http-equiv="refresh" content="15"' in done
    assert 'data-testid="kpis"' in done
    service.clock.move(minutes=6)
    assert 'http-equiv="refresh"' not in browser.get("/rollback/concierge?result=3").text


def test_the_decision_tells_who_did_what(service: Service, browser: Browser) -> None:
    service.roll_back(expected_version=2, reason="topics lost")
    service.roll_back(expected_version=7)
    page = browser.get("/rollback/concierge?from=1&to=2").text
    history = page.partition('data-testid="history"')[2].partition("</ol>")[0]
    assert history.count("<li>") == 3, "attempts that did nothing belong to the audit page"
    assert "rolled back from version 2 to 1" in history
    assert "topics lost" in history
    assert "published version 2" in history


def test_the_audit_page_filters_by_what_and_outcome(service: Service, browser: Browser) -> None:
    service.roll_back(expected_version=2)
    service.roll_back(expected_version=7)
    count = 'data-testid="audit-row"'
    assert browser.get("/audit?action=rollback").text.count(count) == 2
    assert browser.get("/audit?action=rollback&status=failed").text.count(count) == 1
    assert '<option value="failed" selected>failed</option>' in browser.get("/audit?status=failed").text
    assert browser.get("/audit?action=&status=&persona=&actor=").text.count(count) == 4
    assert browser.get("/audit?status=wrong").status_code == 422
