"""docker-compose.yml says the same as the native run: hosts, ports, paths, settings and mounts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings
from sqlalchemy import make_url

from config_rollback.settings import Settings as ConfigRollbackSettings
from driftback_server.stack import programs
from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import Ports
from driftback_server.stack.programs import Program
from driftback_server.stack.secrets import SecretFiles
from exporter.settings import Settings as ExporterSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
ALERTMANAGER: dict[str, Any] = yaml.safe_load((ROOT / "prometheus" / "alertmanager.yml").read_text())

# What a container has and a native run does not, and the reverse, with the reason.
ONLY_IN_COMPOSE = {
    "config_rollback": {"CONFIG_ROLLBACK_DATABASE_URL_FILE"},  # PostgreSQL instead of SQLite
    "grafana": {
        "GF_PATHS_CONFIG",  # natively a flag of the command
        "GF_SERVER_ROOT_URL",  # what a proxy in front of it is called
    },
}
ONLY_NATIVE = {
    # The image's own defaults; grafana.ini names the file of the password.
    "grafana": {
        "GF_SERVER_HTTP_PORT",
        "GF_PATHS_DATA",
        "GF_PATHS_LOGS",
        "GF_SECURITY_ADMIN_PASSWORD",
    },
}


@pytest.fixture
def native(tmp_path: Path) -> dict[str, Program]:
    layout, ports = Layout(tmp_path), Ports()
    layout.create()
    secret = SecretFiles.create(layout.secrets)
    binaries = {name: Path("/usr/bin") / name for name in ("prometheus", "alertmanager")}
    every = [
        *programs.core(layout, ports, secret, binaries, grafana=True),
        programs.grafana(layout, ports, secret, Path("/usr/bin/grafana"), ROOT),
        *programs.examples(layout, ports, secret, ROOT),
    ]
    return {program.name: program for program in every}


def _mounts(service: str) -> dict[str, str]:
    """Container path → path in the checkout, for bind mounts."""
    found = {}
    for volume in SERVICES[service].get("volumes", []):
        source, target = volume.split(":")[:2]
        if source.startswith("./"):
            found[target] = source
    return found


def test_both_run_the_same_processes(native: dict[str, Program]) -> None:
    # `up` publishes the personas itself; SQLite needs no server and no roles; loopback needs no proxy.
    assert set(SERVICES) - {"postgres", "migrate", "personas", "proxy", "exporter_2"} == set(native)


def test_the_second_exporter_is_the_first_with_a_volume_of_its_own() -> None:
    first, second = SERVICES["exporter"], SERVICES["exporter_2"]
    assert second == first | {
        "profiles": ["replica"],
        "ports": [],
        "volumes": ["exporter_2:/var/lib/driftback"],
    }
    page = (ROOT / "docs" / "deployment.md").read_text()
    (urls,) = re.findall(r"EXPORTER_URL=(\S+)", page)
    assert urls == "http://exporter:9810,http://exporter_2:9810"
    (edit,) = re.findall(r"^    (sed .*prometheus\.yml)$", page, re.M)
    edited = subprocess.run(
        ["bash", "-c", edit.replace("sed -i", "sed")], cwd=ROOT, capture_output=True, check=True
    )
    jobs = yaml.safe_load(edited.stdout)["scrape_configs"]
    assert jobs[0]["static_configs"] == [{"targets": ["exporter:9810", "exporter_2:9810"]}]
    assert jobs[1:] == PROMETHEUS["scrape_configs"][1:]


@pytest.mark.parametrize("name", ["exporter", "config_rollback", "grafana", "chat", "guidance"])
def test_both_give_a_process_the_same_settings(native: dict[str, Program], name: str) -> None:
    in_compose = set(SERVICES[name]["environment"]) - ONLY_IN_COMPOSE.get(name, set())
    given = {variable for variable, value in native[name].environment.items() if value}
    natively = given - ONLY_NATIVE.get(name, set())
    assert in_compose == natively


@pytest.mark.parametrize("name", ["exporter", "config_rollback", "prometheus", "alertmanager", "grafana"])
def test_published_ports_are_those_of_the_native_run_and_on_loopback(name: str) -> None:
    port = getattr(Ports(), name)
    assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_only_the_proxy_is_reached_from_outside() -> None:
    beyond = {
        name
        for name, service in SERVICES.items()
        if not all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    }
    assert beyond == {"proxy"}
    assert SERVICES["proxy"]["profiles"] == ["tls"]
    conf = (ROOT / _mounts("proxy")["/etc/nginx/nginx.conf"]).read_text()
    assert set(re.findall(r"set \S+ (http:\S+);\s+proxy_pass ", conf)) == {
        "http://config_rollback:9811",
        "http://grafana:3000",
    }
    assert {port.partition(":")[2] for port in SERVICES["proxy"]["ports"]} == set(
        re.findall(r"listen (\d+)", conf)
    )


def test_only_config_rollback_reaches_the_database() -> None:
    reaching = {name for name, service in SERVICES.items() if "database" in service.get("networks", [])}
    assert reaching == {"postgres", "migrate", "config_rollback"}
    assert COMPOSE["networks"]["database"]["internal"] is True
    assert "default" not in SERVICES["postgres"]["networks"]


def test_the_service_has_the_rights_of_the_application_and_the_owner_only_migrates() -> None:
    assert "database_owner_url" in SERVICES["migrate"]["secrets"]
    holders = {
        name for name, service in SERVICES.items() if "database_owner_url" in service.get("secrets", [])
    }
    assert holders == {"migrate"}
    assert {name for name in SERVICES if "postgres_password" in SERVICES[name].get("secrets", [])} == {
        "postgres"
    }
    assert SERVICES["config_rollback"]["depends_on"]["migrate"] == {
        "condition": "service_completed_successfully"
    }
    assert SERVICES["migrate"]["networks"] == ["database"]


def test_the_roles_are_those_of_the_documented_script() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (documented,) = re.findall(r"```sql\n(.*?)```", page, re.S)
    script = (ROOT / _mounts("postgres")["/docker-entrypoint-initdb.d/roles.sql"]).read_text()

    def statements(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith(("--", "\\"))]

    assert [line for line in statements(script) if " PASSWORD :" not in line] == statements(documented)
    granted = " ".join(SERVICES["migrate"]["command"])
    for role in ("owner", "app", "auditor"):
        assert f"ALTER ROLE driftback_{role} PASSWORD :'{role}_password';" in script
        assert role == "owner" or f"driftback_{role}" in granted


def test_prometheus_scrapes_services_at_the_ports_they_listen_on() -> None:
    targets = [
        target
        for job in PROMETHEUS["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    ]
    targets += PROMETHEUS["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert len(targets) == 5
    for target in targets:
        name, port = target.split(":")
        assert name in SERVICES
        assert int(port) == getattr(Ports(), name)


def test_every_address_in_an_environment_is_a_service_at_its_port() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    addresses = re.findall(r"(?:http://|@)([a-z_]+):(\d+)", text)
    assert ("exporter", "9810") in addresses
    for name, port in addresses:
        assert name in SERVICES
        assert name == "postgres" or int(port) == getattr(Ports(), name)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_the_flags_are_those_of_the_native_run(native: dict[str, Program], name: str) -> None:
    def flags(command: list[str]) -> set[str]:
        return {word.split("=")[0] for word in command if word.startswith("--")}

    listen = {"--web.listen-address"}  # the image listens on its port anyway
    assert flags(SERVICES[name]["command"]) == flags(native[name].command) - listen


def test_the_files_that_commands_name_are_mounted() -> None:
    for name, path in (
        ("prometheus", "/etc/prometheus/prometheus.yml"),
        ("alertmanager", "/etc/alertmanager/alertmanager.yml"),
    ):
        assert f"--config.file={path}" in SERVICES[name]["command"]
        assert (ROOT / _mounts(name)[path]).is_file()


def test_rules_and_templates_are_found_where_the_configuration_looks() -> None:
    (rules,) = PROMETHEUS["rule_files"]
    assert _mounts("prometheus")[os.path.dirname("/etc/prometheus/" + rules)] == "./rules"
    assert list(ROOT.glob(rules))
    (templates,) = ALERTMANAGER["templates"]
    assert (
        _mounts("alertmanager")[os.path.dirname("/etc/alertmanager/" + templates)] == "./prometheus/templates"
    )
    assert list((ROOT / "prometheus").glob(templates))


def test_grafana_finds_what_it_is_told_to_provision() -> None:
    environment = SERVICES["grafana"]["environment"]
    mounts = _mounts("grafana")
    assert mounts[environment["GF_PATHS_CONFIG"]] == "./grafana/grafana.ini"
    assert mounts[environment["GF_PATHS_PROVISIONING"]] == "./grafana/provisioning"
    assert mounts[environment["DRIFTBACK_DASHBOARDS_DIR"]] == "./grafana/generated"


def test_a_secret_that_is_named_is_given_and_declared() -> None:
    for name, service in SERVICES.items():
        text = yaml.safe_dump(service)
        if name == "alertmanager":
            text += yaml.safe_dump(ALERTMANAGER)
        if name == "grafana":
            text += (ROOT / "grafana" / "grafana.ini").read_text()
        if name == "postgres":
            text += (ROOT / "deploy" / "postgres-roles.sql").read_text()
        if name == "proxy":
            text += (ROOT / "deploy" / "nginx.conf").read_text()
        named = set(re.findall(r"/run/secrets/([a-z_]+)", text))
        assert named == set(service.get("secrets", [])), name
        assert named <= set(COMPOSE["secrets"])


def test_make_secrets_makes_every_secret_once(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "jwt_secret").write_text("kept, as it was there")
    found: list[dict[str, str]] = []
    for _ in range(2):
        subprocess.run(["make", "secrets"], cwd=tmp_path, check=True)
        found.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    made, again = found
    assert made == again
    assert made["jwt_secret"] == "kept, as it was there"
    # A certificate is yours: docs/deployment.md.
    assert set(COMPOSE["secrets"]) - {"tls_certificate", "tls_key"} == set(made)
    for secret, role in (("database_url", "app"), ("database_owner_url", "owner")):
        url = make_url(made[secret])
        assert url.render_as_string(hide_password=True) == (
            f"postgresql+psycopg://driftback_{role}:***@postgres:5432/driftback"
        )
        assert url.password == made[f"postgres_{role}_password"]
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_every_foreign_image_is_pinned_by_version() -> None:
    for service in SERVICES.values():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", service["image"]), service["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert service["pids_limit"] > 0
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)


def test_our_image_runs_as_the_user_that_compose_names() -> None:
    user = re.search(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert user is not None
    assert SERVICES["exporter"]["user"] == user[1]


def test_what_is_depended_on_is_waited_for_until_healthy() -> None:
    for name, service in SERVICES.items():
        needed = service.get("depends_on", {})
        if name == "traffic":  # follows processes that have no health check; its calls are tried again
            assert set(needed) == {"chat", "guidance"}
            continue
        for other, condition in needed.items():
            if other == "migrate":
                continue
            assert condition == {"condition": "service_healthy"}, (name, other)
            assert "healthcheck" in SERVICES[other], other


def test_state_is_in_named_volumes() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, _, options = volume.partition(":")
            assert source in COMPOSE["volumes"] or (source.startswith("./") and options.endswith(":ro")), name
    for name in (
        "exporter",
        "exporter_2",
        "config_rollback",
        "postgres",
        "prometheus",
        "alertmanager",
        "grafana",
    ):
        assert any(volume.startswith(f"{name}:") for volume in SERVICES[name]["volumes"]), name


def test_the_build_context_holds_what_the_image_copies_and_no_secret() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.M)
        for word in line.split()[:-1]
    }
    assert allowed == copied


@pytest.mark.parametrize("name", ["exporter", "config_rollback"])
def test_every_setting_that_compose_gives_exists(name: str) -> None:
    settings: dict[str, type[BaseSettings]] = {
        "exporter": ExporterSettings,
        "config_rollback": ConfigRollbackSettings,
    }
    known = {f"{name}_{field}".upper() for field in settings[name].model_fields}
    assert set(SERVICES[name]["environment"]) <= known
