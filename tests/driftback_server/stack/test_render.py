from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from driftback_server.stack.components import ensure
from driftback_server.stack.layout import Layout, assets_dir
from driftback_server.stack.ports import Ports
from driftback_server.stack.render import PrometheusOptions, render
from driftback_server.stack.secrets import SecretFiles
from tests.support.commands import run

PORTS = Ports().shifted(20_000)
OPTIONS = PrometheusOptions(scrape_interval="5s", remote_write="http://127.0.0.1:8428/api/v1/write")


@pytest.fixture
def rendered(tmp_path: Path) -> dict[str, Any]:
    layout = Layout(tmp_path)
    layout.create()
    render(layout, PORTS, SecretFiles.create(layout.secrets), assets_dir(), OPTIONS, grafana=False)
    return {
        name: yaml.safe_load((layout.config / f"{name}.yml").read_text())
        for name in ("prometheus", "alertmanager")
    }


def test_every_target_is_on_loopback_at_the_stacks_ports(rendered: dict[str, Any]) -> None:
    targets = {
        job["job_name"]: target
        for job in rendered["prometheus"]["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    }
    assert targets == {
        "exporter": "127.0.0.1:29810",
        "config_rollback": "127.0.0.1:29811",
        "prometheus": "127.0.0.1:29090",
        "alertmanager": "127.0.0.1:29093",
    }


def test_links_lead_to_the_stacks_own_service(rendered: dict[str, Any]) -> None:
    links = rendered["prometheus"]["global"]["external_labels"]
    assert links == {"driftback_url": "http://127.0.0.1:29811"}, "and to Grafana only where it runs"


def test_an_interval_is_overridden_only_where_one_is_given(rendered: dict[str, Any]) -> None:
    shipped = yaml.safe_load((assets_dir() / "prometheus" / "prometheus.yml").read_text())["global"]
    assert rendered["prometheus"]["global"]["scrape_interval"] == "5s"
    assert rendered["prometheus"]["global"]["evaluation_interval"] == shipped["evaluation_interval"]


def test_remote_write_leaves_out_the_labels_of_links(rendered: dict[str, Any]) -> None:
    (target,) = rendered["prometheus"]["remote_write"]
    assert target["url"] == OPTIONS.remote_write
    dropped = target["write_relabel_configs"][0]
    assert dropped == {"action": "labeldrop", "regex": "driftback_url|grafana_url"}


def test_the_webhook_goes_to_the_stack_with_its_token(rendered: dict[str, Any], tmp_path: Path) -> None:
    hooks = [
        hook
        for receiver in rendered["alertmanager"]["receivers"]
        for hook in receiver.get("webhook_configs", [])
    ]
    assert [hook["url"] for hook in hooks] == ["http://127.0.0.1:29811/v1/alerts"]
    path = hooks[0]["http_config"]["authorization"]["credentials_file"]
    assert path == str(tmp_path / "secrets" / "alertmanager_token")


def test_the_rules_are_found_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """A folder's own brackets are no pattern."""
    assets = tmp_path / "feature[1]%2F a?b"
    assets.symlink_to(assets_dir())
    layout = Layout(tmp_path / "state")
    layout.create()
    render(layout, PORTS, SecretFiles.create(layout.secrets), assets, OPTIONS, grafana=False)
    checks = {
        "promtool": ("check", "config", layout.config / "prometheus.yml"),
        "amtool": ("check-config", layout.config / "alertmanager.yml"),
    }
    found = {tool: run(ensure([tool])[tool], *words) for tool, words in checks.items()}
    assert found["promtool"].count(f"Checking {assets}/rules/") == len(list((assets / "rules").glob("*.yml")))
    assert "1 templates\n  SUCCESS" in found["amtool"], "what a pattern does not find is none"
