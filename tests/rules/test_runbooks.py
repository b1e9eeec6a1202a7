"""What runbooks tell a person to type works, and the numbers in them are those of the rules."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import typer.main

from driftback_server import cli
from driftback_server.stack.ports import Ports
from tests.rules.files import CHECKOUT, RUNBOOKS, alerts, duration, load
from tests.support.monitoring import alertmanager

PLACES = {
    **dict.fromkeys(("PREDECESSOR", "FROM"), "1"),
    **dict.fromkeys(("VERSION", "TO"), "2"),
    "PERSONA": "concierge",
    "REASON": "invalid_json",
    "WHY": "meant",
}
PROGRAMS = ("driftback", "amtool", "promtool", "curl")
NOBODY = "http://127.0.0.1:1"
_BLOCK = r"^```(\w*)\n(.*?)^```$"


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(_BLOCK, text, re.DOTALL | re.MULTILINE)


def _commands(program: str) -> list[tuple[str, list[str]]]:
    """(runbook, words) of every command, on a line of its own or in a sentence, placeholders filled in."""
    found = []
    for path in sorted(RUNBOOKS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        lines = [line for language, block in _blocks(text) if not language for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(_BLOCK, "", text, flags=re.DOTALL | re.MULTILINE))
        for line in lines:
            if line.startswith(f"{program} "):
                filled = re.sub(r"\b[A-Z]+\b", lambda match: PLACES.get(match[0], match[0]), line)
                found.append((path.stem, shlex.split(filled)))
    assert found, program
    return found


def test_every_block_is_promql_or_a_command_that_is_tested() -> None:
    for path in RUNBOOKS.glob("*.md"):
        for language, body in _blocks(path.read_text(encoding="utf-8")):
            assert language == "promql" or all(line.split()[0] in PROGRAMS for line in body.splitlines()), (
                path
            )


def test_commands_of_driftback_exist_with_these_arguments() -> None:
    for _, words in _commands("driftback"):
        command: Any = typer.main.get_command(cli._app)
        rest = words[1:]
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        command.make_context(command.name, rest)  # raises on a wrong option or argument


def test_commands_of_promtool_accept_the_rules(promtool: Path) -> None:
    for _, words in _commands("promtool"):
        assert words[1] in ("check", "test")
        files = [str(path) for word in words[3:] for path in CHECKOUT.glob(word)]
        if files:
            subprocess.run([promtool, *words[1:3], *files], check=True, capture_output=True)
        else:
            usage = subprocess.run([promtool, *words[1:3], "--help"], capture_output=True, text=True)
            assert usage.returncode == 0


def test_addresses_are_those_of_a_native_run() -> None:
    for _, words in _commands("curl"):
        url = urlsplit(words[-1])
        assert url.port in (Ports().exporter, Ports().config_rollback)
        assert url.path == "/-/ready"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Host and port of an Alertmanager with the committed configuration."""
    with alertmanager(tmp_path, NOBODY) as address:
        yield address


def test_silences_silence_the_alert_of_the_runbook_by_labels_it_has(amtool: Path, address: str) -> None:
    commands = _commands("amtool")
    assert {name for name, _ in commands} == {rule["alert"] for rule in alerts()} - {"Watchdog"}
    for name, words in commands:
        assert words[1] == f"--alertmanager.url=http://127.0.0.1:{Ports().alertmanager}"
        words[:2] = [str(amtool), f"--alertmanager.url=http://{address}"]
        before = datetime.now(UTC)
        identity = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        silence = requests.get(f"http://{address}/api/v2/silence/{identity}", timeout=10).json()
        matchers = {matcher["name"]: matcher["value"] for matcher in silence["matchers"]}
        assert matchers.pop("alertname") == name
        assert all(label in _labels(name) for label in matchers)
        (asked,) = [duration(word.partition("=")[2]) for word in words if word.startswith("--duration=")]
        assert abs(datetime.fromisoformat(silence["endsAt"]) - before - asked) < timedelta(minutes=1)


def _labels(alert: str) -> set[str]:
    """The labels that the promtool tests expect of an alert."""
    found: set[str] = set()
    for path in (CHECKOUT / "rules" / "tests").glob("*_test.yml"):
        for test in load(path)["tests"]:
            for case in test.get("alert_rule_test", []):
                for expected in case["exp_alerts"] if case["alertname"] == alert else []:
                    found |= set(expected["exp_labels"])
    return found


def test_numbers_are_those_of_the_rules() -> None:
    parameters = load(CHECKOUT / "rules" / "templates" / "parameters.yml")
    drift, regression = parameters["drift"], parameters["regression"]
    for kpi in parameters["kpis"]:
        text = (RUNBOOKS / f"{kpi['alert']}.md").read_text(encoding="utf-8")
        assert f"starts at\nevidence {drift['start']} and ends below {drift['end']}." in text
        assert f">= {drift['end']}\n" in text
    text = (RUNBOOKS / "ConfigVersionRegression.md").read_text(encoding="utf-8")
    assert f"needs {regression['minimum_messages']} messages of each" in text
    assert f"more than {regression['threshold']} standard deviations" in text
    text = (CHECKOUT / "docs" / "kpi-and-drift.md").read_text(encoding="utf-8")
    assert f"fires above {regression['threshold']}." in text
    panel = (CHECKOUT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    assert f"An alert starts at {drift['start']} and ends below {drift['end']}." in panel
    assert f"z is above {regression['threshold']}, until z is below {regression['end']}." in panel


def test_the_false_alarms_that_alerts_name_are_those_that_were_measured() -> None:
    """The tables of the rules report: the drift alerts' rates are per week, the versions' in percent."""
    parameters = load(CHECKOUT / "rules" / "templates" / "parameters.yml")
    text = (CHECKOUT / "docs" / "contributing" / "rules-report.md").read_text(encoding="utf-8")
    per_week = [float(rate) for rate in re.findall(r"^\| [\d,]+ \| ([\d.]+) \|", text, re.MULTILINE)]
    assert 1 / 3 < max(per_week) <= 1 / 2
    assert parameters["drift"]["false_alarms"] == "once in two weeks"
    pattern = r"^\| [\d,]+ \| [\d.]+% \| [\d.]+% \| ([\d.]+)%? \| ([\d.]+)%? \|"
    columns = zip(*re.findall(pattern, text, re.MULTILINE), strict=True)
    named, paged = (f"up to {10 * max(map(float, column)):.0f} of 1,000" for column in columns)
    assert parameters["regression"]["false_alarms"] == {"ticket": named, "page": paged}
