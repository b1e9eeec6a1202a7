"""`make audit` asks about every locked version. The vulnerability service is played: a test reaches none."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.stacks import ROOT
from tests.support.web import Answer, serving

pytestmark = pytest.mark.soak

_LOCKS = "".join((ROOT / f"requirements-{which}.lock").read_text() for which in ("build", "dev"))
_LOCKED = map(Requirement, re.findall(r"^(\S+==.*?) \\$", _LOCKS, re.M))
LOCKED = {
    canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
    for pin in _LOCKED
    if pin.marker is None or pin.marker.evaluate()
}
VULNERABLE = canonicalize_name("starlette")


def _audit(vulnerable: set[str]) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """What `make audit` printed, and which version it asked for by name."""
    asked: dict[str, str] = {}

    def answer(body: bytes) -> Answer:
        question = json.loads(body)
        name = question["package"]["name"]
        asked[canonicalize_name(name)] = question["version"]
        found = (
            [{"id": "TEST-1", "summary": "made up", "affected": [], "aliases": []}]
            if name in vulnerable
            else []
        )
        return 200, "application/json", json.dumps({"vulns": found} if found else {}).encode()

    with serving(answer) as address:
        options = f"ARGS=--vulnerability-service osv --osv-url http://{address}/v1/query"
        done = subprocess.run(
            ["make", "audit", options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
    return done, asked


def test_it_passes_when_nothing_is_known_of_any_locked_version() -> None:
    done, asked = _audit(set())
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked == LOCKED


def test_it_fails_and_names_a_vulnerable_version() -> None:
    done, _ = _audit({VULNERABLE})
    assert done.returncode != 0
    assert re.search(rf"{VULNERABLE}\s+{re.escape(LOCKED[VULNERABLE])}\s+TEST-1", done.stdout)
