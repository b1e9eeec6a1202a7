"""Dependencies point one way: driftback ← catalogue, errors, settings … ← domain modules ← app ← __main__."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("driftback", "exporter", "config_rollback", "driftback_server", "grafana", "examples")
FOLDERS = {"driftback": ROOT / "client"}
"""Of packages that do not lie at the root."""
LEAVES = ("catalogue", "errors", "secret_files", "settings", "signing")
SERVICES_MAY_IMPORT = ("driftback", "examples")


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        folder = FOLDERS.get(package, ROOT)
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _own(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _imports(path: Path) -> Iterator[str]:
    """Every module that the file imports; `from a import b` gives `a.b` where that is a module of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


MODULES = _modules()
EDGES = [
    (module, target)
    for module, path in MODULES.items()
    for target in _imports(path)
    if _own(target, PACKAGES)
]


def _is_leaf(module: str) -> bool:
    return module.count(".") == 1 and module.rsplit(".")[-1] in LEAVES


def _forbidden(module: str, target: str) -> str | None:
    """Why `module` may not import `target`, or None where it may."""
    home, other = module.split(".")[0], target.split(".")[0]
    if home == "driftback" and other != "driftback":
        return "what services import knows nothing of the servers"
    if home == "exporter" and other not in ("driftback", "exporter"):
        return "the exporter knows nothing of the other packages but the contract with its clients"
    if home == "examples" and not _own(target, SERVICES_MAY_IMPORT):
        return "services import the client only"
    if home in ("exporter", "config_rollback") and _own(target, ("driftback.recorder", "driftback.config")):
        return "a server knows the contract with its clients, and not the clients"
    if target.endswith(".__main__"):
        return "nothing imports __main__"
    if target.endswith(".app") and not module.endswith(".__main__"):
        return "only __main__ imports app"
    if _is_leaf(module) and not _is_leaf(target) and other != "driftback":
        return f"{', '.join(LEAVES)} import each other at most"
    if home == "config_rollback" and other == "driftback_server":
        return "the service knows nothing of the command line and the native stack"
    if _own(module, ("driftback_server.stack",)) and _own(target, ("driftback_server.cli",)):
        return "the stack knows nothing of the command line"
    return None


def test_the_walk_sees_the_code() -> None:
    assert ("examples.service", "driftback") in EDGES
    assert ("driftback_server.cli.up", "driftback_server.stack.stack") in EDGES


def test_dependencies_point_one_way() -> None:
    wrong = [
        f"{module} imports {target}: {why}" for module, target in EDGES if (why := _forbidden(module, target))
    ]
    assert wrong == []


def _room(module: str) -> str:
    """The folder of a service that a module lies in, or the module itself."""
    return ".".join(module.split(".")[:2]) if module.startswith(("config_rollback.", "exporter.")) else module


def _assert_no_circle(edges: Iterable[tuple[str, str]]) -> None:
    graph: dict[str, set[str]] = {}
    for module, target in edges:
        graph.setdefault(module, set()).add(target)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' → '.join((*path, module))}"
        if module in done:
            return
        for target in graph.get(module, ()):
            walk(target, (*path, module))
        done.add(module)

    for module in graph:
        walk(module, ())


def test_no_module_is_in_a_circle() -> None:
    # A package's __init__ may gather its own modules.
    _assert_no_circle(edge for edge in EDGES if edge[0] != edge[1].rpartition(".")[0])


def test_no_room_is_in_a_circle() -> None:
    rooms = ((_room(module), _room(target)) for module, target in EDGES)
    _assert_no_circle(edge for edge in rooms if edge[0] != edge[1])


def test_no_folder_of_code_has_more_than_a_dozen_modules_at_its_root() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): len(modules)
        for folder in {path.parent for path in MODULES.values()}
        if len(modules := [path for path in folder.glob("*.py") if not path.name.startswith("__")]) > 12
    }
    assert crowded == {}


@pytest.mark.parametrize(
    ("folder", "other"), [("benchmarks", "tests"), ("rules_report", "tests"), ("tests", "benchmarks")]
)
def test_tests_and_measurements_do_not_need_each_other(folder: str, other: str) -> None:
    """But `rules_report` is tested, as all other code is."""
    paths = (ROOT / folder).rglob("*.py")
    assert [path for path in paths if any(_own(target, (other,)) for target in _imports(path))] == []


def test_one_module_makes_http_sessions() -> None:
    """What the environment may change in a call is decided there."""
    makes = re.compile(r"\brequests\.(get|post|put|request|Session)\(|\burlopen\(")
    found = [name for name, path in MODULES.items() if makes.search(path.read_text())]
    # The examples' customers are no part of the product, and import nothing of it.
    assert found == ["config_rollback.outgoing.sessions", "examples.traffic"]


def test_one_module_writes_audit_rows() -> None:
    calls = {name for name, path in MODULES.items() if ".append_audit(" in path.read_text(encoding="utf-8")}
    assert calls == {"config_rollback.rollback.attempts"}


def test_the_client_imports_the_standard_library_alone() -> None:
    foreign = {
        f"{module} imports {target}"
        for module, path in MODULES.items()
        if _own(module, ("driftback",))
        for target in _imports(path)
        if target.partition(".")[0] not in sys.stdlib_module_names | {"driftback"}
    }
    assert foreign == set()
