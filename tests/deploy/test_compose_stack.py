"""docker compose runs the whole loop, on stand-ins for the images of others (`make compose-test`).

Debian has no Grafana: its stand-in only shows that its files and rights are there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import tls
from tests.support.deployment_page import Access, access, as_written, copy_checkout, documented
from tests.support.docker import BASE, IMAGE, Engine, engine, stand_ins
from tests.support.stacks import wait_for
from tests.support.whole_loop import whole_loop

pytestmark = pytest.mark.soak

PROJECT = "driftback-test"
COMPOSE = ["docker-compose", "--project-name", PROJECT]
PROFILES = ["--profile", "demo", "--profile", "tls", "--profile", "replica"]
CONFIG_ROLLBACK = "http://127.0.0.1:9811"
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"
AGAIN = "driftback:again"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with secrets of its own."""
    folder = copy_checkout(tmp_path_factory.mktemp("compose") / "main")
    subprocess.run(["make", "secrets"], cwd=folder, check=True)
    tls.self_signed(folder / "secrets" / "tls_certificate", folder / "secrets" / "tls_key")
    return folder


@pytest.fixture(scope="module")
def stack(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("docker")
    with engine(folder) as docker:
        stand_ins(docker, folder)
        docker.build(checkout, IMAGE)
        # Now, for the page's commands change the checkout.
        docker.build(checkout, AGAIN, "--no-cache")
        try:
            for chapter in ("docker compose", "Reached from outside: the profile `tls`", "Exporter replicas"):
                for command in documented(chapter):
                    as_written(_of_the_test(command), docker.run, checkout)
            docker.run(*COMPOSE, *PROFILES, "up", "-d", cwd=checkout)
            yield docker
        finally:
            print(docker.run(*COMPOSE, *PROFILES, "logs", "--tail=20", cwd=checkout))
            docker.run(*COMPOSE, *PROFILES, "down", "--volumes", "--timeout", "15", cwd=checkout)


def _of_the_test(command: str) -> str:
    """A command of the page, for a project of the test's own."""
    return command.replace("docker compose", " ".join(COMPOSE))


@pytest.fixture(scope="module")
def made(stack: Engine, checkout: Path) -> Access:
    return access("docker compose", lambda command: as_written(_of_the_test(command), stack.run, checkout))


def _targets() -> list[str]:
    """The health of everything that Prometheus scrapes; of nothing before it answers."""
    try:
        answer = requests.get(f"{PROMETHEUS}/api/v1/targets?state=active", timeout=10).json()
    except requests.RequestException:
        return []
    return [target["health"] for target in answer["data"]["activeTargets"]]


def test_the_whole_loop_runs_in_containers(made: Access) -> None:
    wait_for("targets up", 180, lambda: _targets() == ["up"] * 5, pause=1)
    assert made.login_link.startswith(f"{CONFIG_ROLLBACK}/login?")
    assert "login-button" in requests.get(made.login_link, timeout=10).text
    whole_loop(CONFIG_ROLLBACK, ALERTMANAGER, made.headers)


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


def test_the_proxy_follows_a_service_to_another_address(stack: Engine, checkout: Path) -> None:
    def address() -> str:
        name = stack.run(*COMPOSE, "ps", "--quiet", "config_rollback", cwd=checkout).strip()
        networks = json.loads(stack.run("docker", "inspect", name))[0]["NetworkSettings"]["Networks"]
        found: str = networks[f"{PROJECT}_default"]["IPAddress"]
        return found

    def status() -> int:
        session = tls.session(tls.NAMES[0], 443, checkout / "secrets" / "tls_certificate")
        return session.get(f"https://{tls.NAMES[0]}/login", timeout=20).status_code

    assert status() == 200
    before = address()
    stack.run(*COMPOSE, "rm", "--stop", "--force", "config_rollback", cwd=checkout)
    # Takes the address that is free now.
    other = stack.run("docker", "run", "--detach", f"--network={PROJECT}_default", BASE, "sleep", "600")
    try:
        stack.run(*COMPOSE, "up", "-d", "config_rollback", cwd=checkout)
        assert address() != before
        wait_for("answer through the proxy", 60, lambda: status() == 200, pause=1)
    finally:
        stack.run("docker", "rm", "--force", other.strip())


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
