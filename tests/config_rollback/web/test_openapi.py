"""`/openapi.json`: every route is in it, and the service answers as it says, whatever it is asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from starlette.routing import Route

from config_rollback.errors import with_codes
from tests.config_rollback.evidence.test_kpis import Prometheus, prometheus
from tests.config_rollback.running import Service

__all__ = ["prometheus"]

SHORT_EXAMPLES = 12
"""Per operation: a few seconds."""
SOAK_CASES = 50_000
"""On both databases together."""
SOAK_PARTS = 5
"""On each database, every part on an empty one: what earlier cases left makes exports and checks slower."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{service.url}/openapi.json", timeout=10).json()
    return found


def test_every_call_is_described_and_nothing_else(service: Service) -> None:
    routes = {
        (route.path, method.lower())
        for route in service.app.routes
        if isinstance(route, Route) and route.path.startswith(("/v1/", "/-/", "/metrics"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, item in document(service)["paths"].items() for method in item}
    assert described == routes
    assert len(described) == 19


def test_every_code_it_names_has_the_status_of_the_code(service: Service) -> None:
    by_code = {error.code: error.status for error in with_codes()}
    for path, item in document(service)["paths"].items():
        for call in item.values():
            assert call["summary"], path
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    codes = answer["description"].split(", ")
                    assert {by_code[code] for code in codes} == {int(status)}, (path, status)


def run(service: Service, folder: Path, examples: int, phases: str) -> str:
    """Schemathesis' report; fails where the service does not keep to its description."""
    content = document(service)
    for parameter in content["paths"]["/v1/personas/{persona}/config"]["get"]["parameters"]:
        if parameter["name"] == "wait":
            parameter["schema"]["maximum"] = 0  # a long poll is not what this is about
    schema = folder / "openapi.json"
    schema.write_text(json.dumps(content))
    token = service.app.state.dependencies.settings.service_tokens[0].get_secret_value()
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", str(schema), "--url", service.url,
        "--header", f"Authorization: Bearer {token}", "--checks", CHECKS, "--phases", phases,
        "--max-examples", str(examples), "--no-color", "--generation-database", "none",
        "--continue-on-failure", "--request-timeout", "60",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False, cwd=folder)
    assert done.returncode == 0, _cut(done.stdout)
    return done.stdout


def _cut(report: str) -> str:
    return "\n".join(line[:300] for line in report.splitlines())[-8000:]


@pytest.fixture
def fuzzed(start: Callable[..., Service], prometheus: Prometheus) -> Service:
    """A service with two versions of a persona; one token opens every call."""
    probe = start()
    token = probe.token(lifetime_seconds=86_000)
    probe.stop()
    service = start(
        service_tokens=(SecretStr(token),),
        alertmanager_tokens=(SecretStr(token),),
        prometheus_url=prometheus.url,
    )
    service.publish("0")
    service.publish("0")
    return service


def cases(report: str) -> int:
    found = re.search(r"(\d+) generated", report)
    assert found, report[-3000:]
    return int(found[1])


def seed(report: str) -> str:
    found = re.search(r"Seed: \d+", report)
    assert found, report[-3000:]
    return found[0]


def test_the_service_keeps_to_its_description(fuzzed: Service, tmp_path: Path) -> None:
    assert cases(run(fuzzed, tmp_path, SHORT_EXAMPLES, "coverage,fuzzing")) >= 14 * SHORT_EXAMPLES


@pytest.mark.soak
@pytest.mark.parametrize("part", range(1, SOAK_PARTS + 1))
def test_the_service_keeps_to_its_description_for_long(fuzzed: Service, tmp_path: Path, part: int) -> None:
    wanted = SOAK_CASES // (2 * SOAK_PARTS)
    # Four of the sixteen operations take no parameter, so that there is little to vary.
    report = run(fuzzed, tmp_path, wanted // 11, "coverage,fuzzing")
    print(f"part {part} on {fuzzed.database.kind}: {cases(report)} cases, {seed(report)}")
    assert cases(report) >= wanted
