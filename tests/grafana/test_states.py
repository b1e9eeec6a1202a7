"""What the tiles say in situations that a running stack is rarely in: their queries on series made for it."""

import json
import subprocess
from pathlib import Path

import pytest

from driftback_server.stack.components import ensure
from tests.grafana import model

ALL = {"window": "1h", "journey": ".*", "persona": ".*"}
TILES = ("Out-of-scope rate", "LLM error rate", "p95 latency")
KPI = ("out_of_scope_rate", "llm_error_rate", "p95_latency_ms")
tiles = pytest.mark.parametrize("title", TILES)

Series = dict[str, str]

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


class States:
    """Queries after ten minutes of series that have a value a minute."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "test.json"

    def tile(self, title: str, series: Series, values: dict[str, str], expected: int) -> None:
        """The state of a tile of the dashboard is the expected one."""
        panels = model.dashboard("driftback-conversation")["panels"]
        (panel,) = [panel for panel in panels if panel["title"] == title]
        self.ask(panel["targets"][1]["expr"], series, values, ["{}"], expected)

    def ask(
        self, expr: str, series: Series, values: dict[str, str], labels: list[str], expected: float = 1
    ) -> None:
        """An expression gives samples with these labels, all of the expected value."""
        query = {
            "expr": model.interpolate(expr, values),
            "eval_time": "10m",
            "exp_samples": [{"labels": each, "value": expected} for each in labels],
        }
        inputs = [{"series": name, "values": points} for name, points in series.items()]
        test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}
        self._file.write_text(json.dumps({"evaluation_interval": "1m", "tests": [test]}))
        command = [str(ensure(["promtool"])["promtool"]), "test", "rules", str(self._file)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def states(tmp_path: Path) -> States:
    return States(tmp_path)


@pytest.mark.parametrize("title", ["Messages", *TILES])
def test_all_is_well(states: States, title: str) -> None:
    states.tile(title, HEALTHY, ALL, 0)


def test_only_the_silent_persona_is_called_silent(states: States) -> None:
    silent = HEALTHY | firing("ConversationSilence", journey="chat", persona="other")
    states.tile("Messages", silent, ALL | {"persona": "calm"}, 0)
    states.tile("Messages", silent, ALL | {"journey": "guidance"}, 0)
    states.tile("Messages", silent, ALL | {"persona": "other"}, 1)
    states.tile("Messages", silent, ALL, 1)


def test_marks_are_those_of_the_chosen_journey_and_persona(states: States) -> None:
    (mark,) = [
        annotation["expr"]
        for annotation in model.dashboard("driftback-persona")["annotations"]["list"]
        if annotation["name"] == "Firing alerts"
    ]
    alerts = firing("ExporterDown") | firing("LatencyDrift", journey="guidance", persona="other")
    down, drift = alerts
    states.ask(mark, alerts, ALL, [down, drift])
    states.ask(mark, alerts, ALL | {"journey": "guidance", "persona": "other"}, [down, drift])
    states.ask(mark, alerts, ALL | {"journey": "chat"}, [down])
    states.ask(mark, alerts, ALL | {"persona": "calm"}, [down])


SECOND_EXPORTER: Series = {'up{job="exporter",instance="b"}': "0x20"} | firing("ExporterDown", instance="b")
NO_EXPORTER: Series = (
    {f'up{{job="exporter",instance="{name}"}}': "0x20" for name in "ab"}
    | firing("ExporterDown", instance="a")
    | firing("ExporterDown", instance="b")
)
UNKNOWN_EXPORTER: Series = {'up{job="exporter",instance="a"}': "1 _x20"} | firing("ExporterDown")
"""Nothing of the job is scraped any more: the alert has no instance, and there is no `up`."""


@tiles
def test_one_of_two_exporters_away_does_not_hide_what_the_alerts_say(states: States, title: str) -> None:
    states.tile(title, HEALTHY | SECOND_EXPORTER, ALL, 0)
    states.tile(title, HEALTHY | NO_EXPORTER, ALL, 3)
    states.tile(title, HEALTHY | UNKNOWN_EXPORTER, ALL, 3)


def test_messages_says_whether_one_exporter_is_away_or_all(states: States) -> None:
    states.tile("Messages", HEALTHY | SECOND_EXPORTER, ALL, 4)
    states.tile("Messages", HEALTHY | NO_EXPORTER, ALL, 2)
    states.tile("Messages", HEALTHY | UNKNOWN_EXPORTER, ALL, 2)
    silent = firing("ConversationSilence", journey="chat", persona="calm")
    states.tile("Messages", HEALTHY | SECOND_EXPORTER | silent, ALL, 1)


@pytest.mark.parametrize("title", ["Messages", *TILES])
def test_rules_are_not_evaluated_after_three_intervals_and_at_least_three_minutes(
    states: States, title: str
) -> None:
    for minutes, interval, expected in (
        (3, "", 0),
        (4, "", 3),
        (3, "15", 0),
        (4, "15", 3),
        (4, "60", 3),
        (4, "120", 0),
    ):
        age: Series = {next(iter(RULES)): f"300x{10 - minutes} _x20"}
        own = {INTERVAL: f"{interval}x20"} if interval else {}
        states.tile(title, HEALTHY | age | own, ALL, expected)
