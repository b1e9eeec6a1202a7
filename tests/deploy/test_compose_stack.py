"""docker compose runs the whole loop, on stand-ins for the images of others (`make compose-test`).

Debian has no Grafana: its stand-in only shows that its files and rights are there.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from config_rollback.auth.tokens import mint_access_token
from tests.support import tls
from tests.support.docker import BASE, Engine, engine, stand_ins
from tests.support.stacks import ROOT, wait_for

pytestmark = pytest.mark.soak

PROJECT = "driftback-test"
CONFIG_ROLLBACK = "http://127.0.0.1:9811"
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"
PERSONA = "concierge"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git does not ignore, with secrets of its own."""
    folder = tmp_path_factory.mktemp("compose") / "main"
    folder.mkdir()
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout
    archive = ["tar", "-C", str(ROOT), "--null", "--files-from=-", "--ignore-failed-read", "-cf", "-"]
    content = subprocess.run(archive, input=names, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", str(folder), "-xf", "-"], input=content, check=True)
    subprocess.run(["make", "secrets"], cwd=folder, check=True)
    tls.self_signed(folder / "secrets" / "tls_certificate", folder / "secrets" / "tls_key")
    return folder


@pytest.fixture(scope="module")
def stack(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("docker")
    with engine(folder) as docker:
        stand_ins(docker, folder)
        services: dict[str, Any] = yaml.safe_load((checkout / "docker-compose.yml").read_text())["services"]
        image = services["exporter"]["image"]
        docker.run(
            "docker",
            "build",
            "--network=host",
            f"--build-arg=BASE={BASE}",
            "--tag",
            image,
            ".",
            cwd=checkout,
        )
        compose = ["docker-compose", "--project-name", PROJECT, "--profile", "demo", "--profile", "tls"]
        try:
            docker.run(*compose, "up", "-d", cwd=checkout)
            yield docker
        finally:
            print(docker.run(*compose, "logs", "--tail=20", cwd=checkout))
            docker.run(*compose, "down", "--volumes", "--timeout", "15", cwd=checkout)


@pytest.fixture(scope="module")
def ops(checkout: Path) -> dict[str, str]:
    secret = (checkout / "secrets" / "jwt_secret").read_text()
    token = mint_access_token(secret, subject="compose-test", role="ops")
    return {"Authorization": f"Bearer {token}"}


def _data(path: str, ops: dict[str, str]) -> Any:
    try:
        answer = requests.get(CONFIG_ROLLBACK + path, headers=ops, timeout=10)
    except requests.RequestException:
        return None
    return answer.json().get("data")


def _active(ops: dict[str, str]) -> int | None:
    rows = _data("/v1/ops/personas", ops) or []
    return next((row["active_version"] for row in rows if row["persona"] == PERSONA), None)


def _alerts(version: int) -> list[dict[str, Any]]:
    wanted = [f'persona="{PERSONA}"', f'config_version="{version}"']
    answer = requests.get(
        f"{ALERTMANAGER}/api/v2/alerts", params={"active": "true", "filter": wanted}, timeout=10
    )
    found: list[dict[str, Any]] = answer.json()
    return found


def _targets() -> list[str]:
    """The health of everything that Prometheus scrapes."""
    answer = requests.get(f"{PROMETHEUS}/api/v1/targets?state=active", timeout=10).json()
    return [target["health"] for target in answer["data"]["activeTargets"]]


def _serving(version: int) -> bool:
    """Whether every process that follows the persona serves that version."""
    text = requests.get(f"{CONFIG_ROLLBACK}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("config_clients{") and PERSONA in line]
    serving = {line.split('config_version="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}
    return {name for name, count in serving.items() if count > 0} == {str(version)}


def test_the_whole_loop_runs_in_containers(stack: Engine, ops: dict[str, str]) -> None:
    wait_for("personas of the demo profile", 180, lambda: _active(ops) == 1, pause=1)
    wait_for("followers", 60, lambda: _serving(1), pause=1)
    wait_for("targets up", 60, lambda: _targets() == ["up"] * 4, pause=1)
    path = "/v1/ops/monitoring/conversation-kpis?window=1h&journey=chat"

    def messages() -> float:
        kpis = _data(path, ops)
        return float(kpis["kpis"]["messages_total"]["value"] or 0) if kpis else 0.0

    wait_for("healthy chat messages", 300, lambda: messages() >= 60, pause=2)
    document = yaml.safe_load((ROOT / "examples" / "personas" / "concierge-careless.yaml").read_text())
    published = requests.post(
        f"{CONFIG_ROLLBACK}/v1/ops/personas/{PERSONA}/versions",
        json={"config": document["config"], "note": document["note"]},
        headers={**ops, "Idempotency-Key": str(uuid.uuid4())},
        timeout=10,
    )
    assert published.json()["data"]["version"] == 2, published.text
    wait_for("alert, at the clock of production", 240, lambda: _alerts(2), pause=2)

    rolled_back = requests.post(
        f"{CONFIG_ROLLBACK}/v1/ops/personas/{PERSONA}/rollback",
        json={"expected_version": 2, "alert": "ConfigVersionRegression"},
        headers={**ops, "Idempotency-Key": str(uuid.uuid4())},
        timeout=10,
    )
    assert rolled_back.status_code == 200, rolled_back.text
    clicked = time.monotonic()
    wait_for("restored configuration", 5, lambda: _serving(1), pause=0.1)
    print(f"restored after {time.monotonic() - clicked:.1f} s")
    wait_for("resolved alert", 600, lambda: not _alerts(2), pause=2)
    row = _data("/v1/ops/audit", ops)[0]
    assert (row["action"], row["status"], row["from_version"], row["to_version"]) == (
        "rollback",
        "succeeded",
        2,
        1,
    )
    assert _data("/v1/ops/audit/verify", ops)["valid"] is True


def test_every_container_is_up_and_healthy(stack: Engine) -> None:
    names = stack.run("docker", "ps", "--all", "--format", "{{json .}}").splitlines()
    states = {row["Names"]: row["Status"] for row in map(json.loads, names)}
    for name, status in states.items():
        if "personas" in name:
            assert status.startswith("Exited (0)"), (name, status)
        else:
            assert status.startswith("Up"), (name, status)
            assert "unhealthy" not in status, (name, status)
