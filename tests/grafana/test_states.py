"""What the tiles say in situations that a running stack is rarely in: their queries on series made for it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.grafana import model
from tests.grafana.model import Json
from tests.support import commands

ALL = {"window": "1h", "journey": ".*", "persona": ".*"}
TILES = ("Out-of-scope rate", "LLM error rate", "p95 latency")
KPI = ("out_of_scope_rate", "llm_error_rate", "p95_latency_ms")

Series = dict[str, str]
Hold = Callable[[Iterable[Json]], None]

PERSONAS: Series = {
    f'kpi:messages_total{{scope="persona",window="1h",journey="{journey}",persona="{persona}"}}': "100x20"
    for persona, journey in (("calm", "chat"), ("other", "chat"), ("other", "guidance"))
} | {
    f'kpi:drift:baseline{{kpi="{kpi}",journey="chat",persona="{persona}"}}': "0.02x20"
    for kpi in KPI
    for persona in ("calm", "other")
}
RULES: Series = {'kpi:messages_total{scope="total",window="1h"}': "300x20"}
EXPORTER: Series = {'up{job="exporter",instance="a"}': "1x20"}
HEALTHY = PERSONAS | RULES | EXPORTER
INTERVAL = 'prometheus_rule_group_interval_seconds{rule_group="/etc/prometheus/rules/recording.yml;kpi"}'


def firing(alert: str, **labels: str) -> Series:
    """The series of a firing alert."""
    named = {"alertname": alert, "alertstate": "firing", "severity": "page", **labels}
    return {f"ALERTS{{{','.join(f'{name}={json.dumps(value)}' for name, value in named.items())}}}": "1x20"}


def tile(title: str, series: Series, values: dict[str, str], expected: int) -> Json:
    """A promtool test: after ten minutes, a tile of the dashboard has the expected state."""
    panels = model.dashboard("driftback-conversation")["panels"]
    (panel,) = [panel for panel in panels if panel["title"] == title]
    return question(panel["targets"][1]["expr"], series, values, ["{}"], expected)


def question(
    expr: str, series: Series, values: dict[str, str], labels: list[str], expected: float = 1
) -> Json:
    """A promtool test: after ten minutes, an expression gives the expected value with each of these labels.

    The series have a value a minute.
    """
    query = {
        "expr": model.interpolate(expr, values),
        "eval_time": "10m",
        "exp_samples": [{"labels": each, "value": expected} for each in labels],
    }
    inputs = [{"series": name, "values": points} for name, points in series.items()]
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}


@pytest.fixture
def hold(promtool: Path, tmp_path: Path) -> Hold:
    """Runs promtool tests and fails with what promtool says."""

    def run(tests: Iterable[Json]) -> None:
        file = tmp_path / "test.json"
        file.write_text(json.dumps({"evaluation_interval": "1m", "tests": list(tests)}))
        commands.run(promtool, "test", "rules", file)

    return run


def test_all_is_well(hold: Hold) -> None:
    hold(tile(title, HEALTHY, ALL, 0) for title in ("Messages", *TILES))


def test_only_the_silent_persona_is_called_silent(hold: Hold) -> None:
    silent = HEALTHY | firing("ConversationSilence", journey="chat", persona="other")
    hold(
        tile("Messages", silent, ALL | chosen, state)
        for chosen, state in (
            ({"persona": "calm"}, 0),
            ({"journey": "guidance"}, 0),
            ({"persona": "other"}, 1),
            ({}, 1),
        )
    )


def test_marks_are_those_of_the_chosen_journey_and_persona(hold: Hold) -> None:
    (mark,) = [
        annotation["expr"]
        for annotation in model.dashboard("driftback-persona")["annotations"]["list"]
        if annotation["name"] == "Firing alerts"
    ]
    alerts = firing("ExporterDown") | firing("LatencyDrift", journey="guidance", persona="other")
    down, drift = alerts
    hold(
        question(mark, alerts, ALL | chosen, shown)
        for chosen, shown in (
            ({}, [down, drift]),
            ({"journey": "guidance", "persona": "other"}, [down, drift]),
            ({"journey": "chat"}, [down]),
            ({"persona": "calm"}, [down]),
        )
    )


SECOND_EXPORTER: Series = {'up{job="exporter",instance="b"}': "0x20"} | firing("ExporterDown", instance="b")
NO_EXPORTER: Series = (
    {f'up{{job="exporter",instance="{name}"}}': "0x20" for name in "ab"}
    | firing("ExporterDown", instance="a")
    | firing("ExporterDown", instance="b")
)
UNKNOWN_EXPORTER: Series = {'up{job="exporter",instance="a"}': "1 _x20"} | firing("ExporterDown")
"""Nothing of the job is scraped any more: the alert has no instance, and there is no `up`."""


def test_one_of_two_exporters_away_does_not_hide_what_the_alerts_say(hold: Hold) -> None:
    hold(
        tile(title, HEALTHY | exporters, ALL, state)
        for title in TILES
        for exporters, state in ((SECOND_EXPORTER, 0), (NO_EXPORTER, 3), (UNKNOWN_EXPORTER, 3))
    )


def test_messages_says_whether_one_exporter_is_away_or_all(hold: Hold) -> None:
    silent = firing("ConversationSilence", journey="chat", persona="calm")
    hold(
        tile("Messages", HEALTHY | exporters, ALL, state)
        for exporters, state in (
            (SECOND_EXPORTER, 4),
            (NO_EXPORTER, 2),
            (UNKNOWN_EXPORTER, 2),
            (SECOND_EXPORTER | silent, 1),
        )
    )


def test_rules_are_not_evaluated_after_three_intervals_and_at_least_three_minutes(hold: Hold) -> None:
    hold(
        tile(
            title,
            HEALTHY
            | {next(iter(RULES)): f"300x{10 - minutes} _x20"}
            | ({INTERVAL: f"{interval}x20"} if interval else {}),
            ALL,
            state,
        )
        for title in ("Messages", *TILES)
        for minutes, interval, state in (
            (3, "", 0),
            (4, "", 3),
            (3, "15", 0),
            (4, "15", 3),
            (4, "60", 3),
            (4, "120", 0),
        )
    )
