"""What is imported is declared, what is declared is used, and the locks hold it all by version and hash."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from driftback import __version__
from tests.support.stacks import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))
OWN = {"driftback"}
"""Our own distribution: in no lock, for it is installed from the folder next to it."""
RUNTIME_CODE = ("exporter", "config_rollback", "driftback_server", "examples")
"""What the wheel holds. The rest runs in a checkout, with the extras."""
OTHER_CODE = ("benchmarks", "deploy", "docs", "grafana", "rules", "rules_report", "tests")
PROGRAMS = {
    "celery": "from celery import",
    "eventlet": "import eventlet",
    "gunicorn": '"gunicorn"',
    "mypy": "mypy",
    "oidc-provider-mock": "oidc_provider_mock",
    "pytest-cov": "--cov",
    "pytest-xdist": "--dist",
    "ruff": "ruff",
    "schemathesis": "schemathesis",
    "supervisor": "supervisord",
}
"""Declared for what they run, and the word by which the repository calls them."""
DISTRIBUTIONS = {
    "PIL": "pillow",
    "jwt": "PyJWT",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry": "opentelemetry-sdk",
    "yaml": "PyYAML",
}
"""Of modules that are called otherwise than what brings them."""
TYPES_ONLY = {"_typeshed"}
"""Modules that exist for mypy alone."""


def requirements(extra: str | None) -> dict[str, Requirement]:
    """What is declared, by its canonical name."""
    project = PYPROJECT["project"]
    return _by_name(project["dependencies"] if extra is None else project["optional-dependencies"][extra])


def _by_name(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def third_party(folders: tuple[str, ...]) -> set[str]:
    """The distributions whose modules are imported below the folders, by canonical name."""
    found = set[str]()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for module in _modules(node):
                    top = module.partition(".")[0]
                    if top not in sys.stdlib_module_names | TYPES_ONLY and not (ROOT / top).is_dir():
                        ours = (name for start, name in DISTRIBUTIONS.items() if module.startswith(start))
                        found.add(canonicalize_name(next(ours, top)))
    return found


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


RUNTIME, DEV, BENCH = requirements(None), requirements("dev"), requirements("bench")
BUILD = _by_name(PYPROJECT["dependency-groups"]["build"])
ALL = {**BENCH, **DEV, **RUNTIME}


def test_what_the_package_imports_is_declared() -> None:
    assert third_party(RUNTIME_CODE) - RUNTIME.keys() == set()


def test_the_client_needs_nothing_and_the_server_needs_the_client_of_its_version() -> None:
    assert CLIENT["project"]["dependencies"] == []
    assert str(RUNTIME["driftback"].specifier) == f"=={__version__}"


def test_what_the_checkout_imports_is_declared() -> None:
    assert third_party(OTHER_CODE) - ALL.keys() == set()


def test_what_is_declared_is_used() -> None:
    commands = [ROOT / "Makefile", ROOT / "Dockerfile"]
    commands += [path for folder in (*RUNTIME_CODE, *OTHER_CODE) for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in commands if path.name != "test_dependencies.py"
    )
    programs = {name for name, word in PROGRAMS.items() if word in text}
    assert programs == PROGRAMS.keys()
    assert RUNTIME.keys() - third_party(RUNTIME_CODE) - programs == set()
    stubs = {name for name in DEV if name.startswith("types-")}
    assert ALL.keys() - third_party((*RUNTIME_CODE, *OTHER_CODE)) - programs - stubs == set()


def locked(name: str) -> dict[str, str]:
    """The versions of a lock by canonical name. Each has hashes, and nothing else is in it."""
    found = dict[str, str]()
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pinned = re.fullmatch(r"([\w.-]+)==(\S+)(?: ; [^#]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+", line)
            assert pinned, line
            assert canonicalize_name(pinned[1]) not in found, line
            found[canonicalize_name(pinned[1])] = pinned[2]
    return found


LOCKS = {"requirements.lock": RUNTIME, "requirements-dev.lock": ALL, "requirements-build.lock": BUILD}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_has_what_is_declared(lock: str) -> None:
    versions = locked(lock)
    wrong = [
        str(requirement)
        for name, requirement in LOCKS[lock].items()
        if name not in OWN and not requirement.specifier.contains(versions.get(name, "0"))
    ]
    assert wrong == [], "run `make lock`"


def test_no_tool_is_locked_for_running() -> None:
    runtime, everything = locked("requirements.lock"), locked("requirements-dev.lock")
    assert runtime.items() <= everything.items()
    of_others = {"cryptography", "packaging", "redis"}  # PyJWT and limits need them
    assert (DEV.keys() | BENCH.keys()) & runtime.keys() <= of_others
