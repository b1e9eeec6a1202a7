"""docker compose runs the whole loop, on stand-ins for the images of others (`make compose-test`).

Debian has no Grafana: its stand-in only shows that its files and rights are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
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
COMPOSE = ["docker-compose", "--project-name", PROJECT]
PROFILES = ["--profile", "demo", "--profile", "tls", "--profile", "replica"]
CONFIG_ROLLBACK = "http://127.0.0.1:9811"
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"
PERSONA = "concierge"
IMAGE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["exporter"]["image"]
AGAIN = "driftback:again"


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


def documented(chapter: str) -> list[str]:
    """The commands for compose in a chapter of docs/deployment.md."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    text = page.partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (\S.*)$|`(docker compose [^`]*)`$", text, re.M)
    assert commands, chapter
    return [block or inline for block, inline in commands]


def build(docker: Engine, checkout: Path, image: str, *options: str) -> None:
    command = ["docker", "build", "--network=host", f"--build-arg=BASE={BASE}", "--tag", image, *options, "."]
    docker.run(*command, cwd=checkout)


@pytest.fixture(scope="module")
def stack(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("docker")
    with engine(folder) as docker:
        stand_ins(docker, folder)
        build(docker, checkout, IMAGE)
        # Now, for the page's commands change the checkout.
        build(docker, checkout, AGAIN, "--no-cache")
        try:
            for chapter in ("docker compose", "Reached from outside: the profile `tls`", "Exporter replicas"):
                for command in documented(chapter):
                    written = command.replace("docker compose", " ".join(COMPOSE))
                    docker.run("bash", "-euo", "pipefail", "-c", written, cwd=checkout)
            docker.run(*COMPOSE, *PROFILES, "up", "-d", cwd=checkout)
            yield docker
        finally:
            print(docker.run(*COMPOSE, *PROFILES, "logs", "--tail=20", cwd=checkout))
            docker.run(*COMPOSE, *PROFILES, "down", "--volumes", "--timeout", "15", cwd=checkout)


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
    wait_for("targets up", 60, lambda: _targets() == ["up"] * 5, pause=1)
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


def _counted_on_the_second(journey: str) -> float:
    query = f'sum(conversation_messages_total{{instance="exporter_2:9810",journey="{journey}"}})'
    answer = requests.get(f"{PROMETHEUS}/api/v1/query", params={"query": query}, timeout=10).json()
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def test_services_go_on_with_the_second_exporter(stack: Engine, checkout: Path) -> None:
    journeys = ("chat", "guidance")
    before = [_counted_on_the_second(journey) for journey in journeys]

    def both_grew() -> bool:
        now = [_counted_on_the_second(journey) for journey in journeys]
        return all(later > earlier for later, earlier in zip(now, before, strict=True))

    stack.run(*COMPOSE, "kill", "exporter", cwd=checkout)
    try:
        wait_for("messages of both services", 180, both_grew, pause=2)
    finally:
        stack.run(*COMPOSE, "start", "exporter", cwd=checkout)
    wait_for("both exporters", 120, lambda: _targets() == ["up"] * 5, pause=2)


def test_the_service_has_the_rights_of_the_application(stack: Engine, checkout: Path) -> None:
    def ask(role: str, query: str) -> str:
        psql = ["psql", "-X", "-h", "127.0.0.1", "-U", role, "-d", "driftback", "-Atc", query]
        key = {"driftback_app": "app_", "driftback_auditor": "auditor_", "postgres": ""}[role]
        password = f"PGPASSWORD={(checkout / 'secrets' / f'postgres_{key}password').read_text()}"
        return stack.run(*COMPOSE, "exec", "-T", "-e", password, "postgres", *psql, cwd=checkout)

    roles = (
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'driftback' AND usename <> 'postgres'"
    )
    assert ask("postgres", roles).split() == ["driftback_app"]
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert ask("postgres", owners).split() == ["driftback_owner"]
    assert ask("driftback_auditor", "SELECT count(*) > 0 FROM audit").strip() == "t"
    for role in ("driftback_app", "driftback_auditor"):
        with pytest.raises(AssertionError, match="permission denied for table audit"):
            ask(role, "UPDATE audit SET actor = 'nobody'")


def test_every_container_is_up_and_healthy(stack: Engine) -> None:
    names = stack.run("docker", "ps", "--all", "--format", "{{json .}}").splitlines()
    states = {row["Names"]: row["Status"] for row in map(json.loads, names)}
    for name, status in states.items():
        if "personas" in name or "migrate" in name:
            assert status.startswith("Exited (0)"), (name, status)
        else:
            assert status.startswith("Up"), (name, status)
            assert "unhealthy" not in status, (name, status)


def _contents(docker: Engine, image: str, folder: Path) -> dict[str, str]:
    """Checksum of each file of an image."""
    container = docker.run("docker", "create", image).strip()
    archive = folder / "image.tar"
    docker.run("docker", "export", "--output", archive, container)
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isreg()]
        found = {member.name: hashlib.sha256(tar.extractfile(member).read()).hexdigest() for member in files}  # type: ignore[union-attr]
    archive.unlink()
    docker.run("docker", "rm", container)
    return found


def test_a_second_build_holds_the_same_bytes(stack: Engine, tmp_path: Path) -> None:
    first, again = (_contents(stack, image, tmp_path) for image in (IMAGE, AGAIN))
    assert {name for name in first | again if first.get(name) != again.get(name)} == set()

    def inspect(image: str) -> Any:
        return json.loads(stack.run("docker", "image", "inspect", image))[0]

    layers = (inspect(image)["RootFS"]["Layers"] for image in (IMAGE, AGAIN))
    same = [one == other for one, other in zip(*layers, strict=True)]
    size = inspect(IMAGE)["Size"] - inspect(BASE)["Size"]
    print(f"image: {size / 1e6:.1f} MB on its base; layers with the same digest in both builds: {same}")
