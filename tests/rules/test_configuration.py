"""Prometheus and Alertmanager accept their configuration, and notifications show the rollback link."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.rules.files import RULES, load
from tests.support.monitoring import CONFIGURATION, uncommented

URLS = {"driftback_url", "grafana_url"}


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The files as they lie beside each other where Prometheus and Alertmanager run."""
    shutil.copytree(CONFIGURATION, tmp_path, dirs_exist_ok=True)
    shutil.copytree(RULES, tmp_path / "rules")
    return tmp_path


def test_prometheus_accepts_its_configuration_and_finds_every_rule_file(
    promtool: Path, installed: Path
) -> None:
    said = _run(promtool, "check", "config", installed / "prometheus.yml")
    assert f"{len(list(RULES.glob('*.yml')))} rule files found" in said


def test_alertmanager_accepts_its_configuration_and_finds_its_templates(amtool: Path) -> None:
    assert "1 templates" in _run(amtool, "check-config", CONFIGURATION / "alertmanager.yml")


def test_external_urls_serve_annotations_but_are_no_labels_of_alerts() -> None:
    config = load(CONFIGURATION / "prometheus.yml")
    assert set(config["global"]["external_labels"]) == URLS
    (drop,) = config["alerting"]["alert_relabel_configs"]
    assert drop["action"] == "labeldrop"
    assert all(re.fullmatch(drop["regex"], url) for url in URLS)
    assert not any(re.fullmatch(drop["regex"], label) for label in ("persona", "config_version", "journey"))


def test_rules_find_their_scrape_job() -> None:
    jobs = {job["job_name"] for job in load(CONFIGURATION / "prometheus.yml")["scrape_configs"]}
    assert jobs == {"exporter", "config_rollback", "prometheus", "alertmanager"}
    used = {job for path in RULES.glob("*.yml") for job in re.findall(r'job="(\w+)"', path.read_text())}
    assert used == {"exporter", "config_rollback"}


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=Watchdog", "severity=none"], "nobody"),
        (["alertname=OutOfScopeDrift", "severity=page", "persona=concierge"], "config_rollback"),
        (["alertname=ExporterDown", "severity=page"], "config_rollback"),
    ],
    ids=["the watchdog goes nowhere", "an alert about a persona is evidence", "so is one without a persona"],
)
def test_alerts_are_routed(amtool: Path, labels: list[str], receiver: str) -> None:
    config = CONFIGURATION / "alertmanager.yml"
    assert _run(amtool, "config", "routes", "test", f"--config.file={config}", *labels).split() == [receiver]


def test_the_commented_receivers_are_valid_once_uncommented(amtool: Path, installed: Path) -> None:
    config = installed / "alertmanager.yml"
    config.write_text(uncommented(config), encoding="utf-8")
    receivers = {receiver["name"]: receiver for receiver in load(config)["receivers"]}
    assert set(receivers) == {"nobody", "config_rollback", "email", "slack"}
    assert "4 receivers" in _run(amtool, "check-config", config)
    page = ["alertname=OutOfScopeDrift", "severity=page", "persona=concierge"]
    routed = _run(amtool, "config", "routes", "test", f"--config.file={config}", *page).strip()
    assert routed == "config_rollback,email,slack"


ROLLBACK_URL = "https://rollback.example.org/rollback/a%20%26%20b?from=2&alert=OutOfScopeDrift"


def _message(status: str) -> dict[str, Any]:
    alert = {
        "status": status,
        "labels": {"alertname": "OutOfScopeDrift", "severity": "page", "persona": "a & <b>"},
        "annotations": {
            "summary": "persona a & <b> has drifted",
            "description": "12 of 30 messages",
            "rollback_url": ROLLBACK_URL,
            "dashboard_url": "https://grafana.example.org/d/driftback-persona",
            "runbook_url": "https://runbooks.example.org/OutOfScopeDrift.md",
        },
        "startsAt": "2024-01-01T00:00:00Z",
        "endsAt": "2024-01-01T01:00:00Z",
    }
    return {"receiver": "x", "status": status, "alerts": [alert], "externalURL": "http://127.0.0.1:9093"}


def _rendered(
    amtool: Path, folder: Path, template: str, status: str, ended: dict[str, Any] | None = None
) -> str:
    data = folder / "data.json"
    message = _message(status)
    if ended:
        message["alerts"].insert(0, ended)
    data.write_text(json.dumps(message), encoding="utf-8")
    return _run(
        amtool,
        "template",
        "render",
        f"--template.glob={CONFIGURATION}/templates/*.tmpl",
        f'--template.text={{{{ template "driftback.{template}" . }}}}',
        f"--template.data={data}",
        f"--template.type={'html' if template == 'html' else 'text'}",
    )


def test_the_text_message_shows_the_rollback_link(amtool: Path, tmp_path: Path) -> None:
    assert _rendered(amtool, tmp_path, "text", "firing").rstrip("\n") == (
        "FIRING (page): persona a & <b> has drifted\n"
        "12 of 30 messages\n"
        f"Look and roll back: {ROLLBACK_URL}\n"
        "Dashboard: https://grafana.example.org/d/driftback-persona\n"
        "Runbook: https://runbooks.example.org/OutOfScopeDrift.md"
    )


def test_the_html_message_escapes_and_links(amtool: Path, tmp_path: Path) -> None:
    text = _rendered(amtool, tmp_path, "html", "firing")
    assert "<b> has drifted" not in text
    assert f'<a href="{html.escape(ROLLBACK_URL)}"><b>Look and roll back</b></a>' in text


def test_the_slack_message_escapes_and_links(amtool: Path, tmp_path: Path) -> None:
    text = _rendered(amtool, tmp_path, "slack", "firing")
    assert "persona a &amp; &lt;b&gt; has drifted" in text
    assert f"<{ROLLBACK_URL.replace('&', '&amp;')}|Look and roll back>" in text


@pytest.mark.parametrize("template", ["text", "html", "slack"])
def test_a_resolved_alert_offers_no_rollback(amtool: Path, tmp_path: Path, template: str) -> None:
    text = _rendered(amtool, tmp_path, template, "resolved")
    assert "RESOLVED" in text
    assert "/rollback/" not in text


def test_the_title_counts_what_fires_and_says_whether_it_is_a_page(amtool: Path, tmp_path: Path) -> None:
    assert _rendered(amtool, tmp_path, "title", "firing") == "[FIRING:1] page: persona a & <b> has drifted"
    assert _rendered(amtool, tmp_path, "title", "resolved") == "[RESOLVED] page: persona a & <b> has drifted"


@pytest.mark.parametrize("template", ["title", "text", "html", "slack"])
def test_what_fires_comes_before_what_has_ended(amtool: Path, tmp_path: Path, template: str) -> None:
    (ended,) = _message("resolved")["alerts"]
    ended["annotations"]["summary"] = "latency had drifted"
    shown = _rendered(amtool, tmp_path, template, "firing", ended)
    assert " has drifted" in shown.partition("latency had drifted")[0]
    assert ("latency had drifted" in shown) == (template != "title")
