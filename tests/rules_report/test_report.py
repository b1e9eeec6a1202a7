"""A shortened form of `make rules-report`; and the fast clock scales nothing but durations."""

import re
from pathlib import Path

import pytest

from driftback_server.stack.components import ensure
from rules_report import accuracy_rows, count_rows, drift_rows, end_rows, fast_clock
from rules_report.rows import Row


def test_the_fast_clock_changes_nothing_but_durations() -> None:
    pattern = re.compile(r"(?<=\[)\d+\w+(?=\])|(?<=offset )\d+\w+|(?<=time\(\) - )[\d.]+")
    for rule in fast_clock.counting_rules():
        fast = fast_clock.scaled(rule["expr"])
        assert pattern.sub("#", fast) == pattern.sub("#", rule["expr"])
        assert fast_clock.scaled(rule["expr"], scale=1).replace("000ms", "s") != fast
        for slow, quick in zip(pattern.findall(rule["expr"]), pattern.findall(fast), strict=True):
            assert _seconds(slow) / _seconds(quick) == pytest.approx(fast_clock.SCALE, rel=0.01)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)?", text)
    assert match, text
    return float(match[1]) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def test_counts_are_exact_through_every_fault(tmp_path: Path) -> None:
    rows = list(count_rows.rows(ensure(["prometheus"])["prometheus"], tmp_path, count_rows.SHORT_SECONDS))
    scenarios = {*fast_clock.PERSONAS, fast_clock.SIDE_BY_SIDE, "Prometheus killed, then down 2 h"}
    assert {row.name.removeprefix("exact counts, ").partition(" (")[0] for row in rows} == scenarios
    # The report asks for all of them; on a busy machine a stalled scrape is late for an evaluation or two.
    assert [row for row in rows if row.value < 0.99] == []


def test_a_row_names_the_windows_at_which_nothing_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    result = fast_clock.Result("restart", "1h", "A", checked=2, exact=2, worst=0.0)
    monkeypatch.setattr(fast_clock, "run", lambda *_: [result])
    (row,) = count_rows.rows(Path(), Path(), 38)
    assert "NOTHING COMPARED at 6h, 24h, 7d" in row.name
    assert not row.met


def test_p95_and_the_samples_read_keep_their_goals(promtool: Path, tmp_path: Path) -> None:
    prometheus = ensure(["prometheus"])["prometheus"]
    assert [r for r in accuracy_rows.rows(prometheus, promtool, tmp_path, 100) if not r.met] == []


def test_drift_keeps_its_goals_in_a_few_runs() -> None:
    rows = list(drift_rows.rows(100, (500, 5_000)))
    assert [row for row in rows if not row.met] == []


@pytest.mark.soak
def test_alerts_about_a_version_end_within_minutes_after_it_stops(promtool: Path, tmp_path: Path) -> None:
    rows = list(end_rows.rows(promtool, tmp_path))
    assert len(rows) == 2 * len(end_rows.VOLUMES)
    assert [row for row in rows if not row.met] == []


def test_a_figure_beyond_its_goal_is_not_met() -> None:
    assert not Row("delay", 61, "min", "most", 60).met
    assert Row("delay", 60, "min", "most", 60).met
    assert not Row("exact", 0.98, "share", "least", 0.99).met
