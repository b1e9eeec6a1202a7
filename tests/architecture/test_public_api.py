"""Of other packages only what is public is used, and no server is subclassed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.test_imports import MODULES, PACKAGES

PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_typeshed"}
"""Documented although they look private: those of named tuples, and a module that exists for mypy alone."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def _private_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] not in PACKAGES and any(map(_is_private, name.split("."))):
                yield name


def _defined(tree: ast.AST) -> set[str]:
    """The private names that a module gives to something of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return set(filter(_is_private, found))


def _foreign_attributes(tree: ast.AST, ours: set[str]) -> Iterator[str]:
    """Private attributes that nothing of ours has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in ours:
            yield f"{ast.unparse(node)} (line {node.lineno})"


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _of_the_package(module: str) -> set[str]:
    """The private names of the distribution's package that a module belongs to."""
    package = module.partition(".")[0]
    return set().union(*(_defined(TREES[name]) for name in TREES if name.partition(".")[0] == package))


OURS = {package: _of_the_package(package) for package in PACKAGES}


def test_no_private_module_or_name_of_another_package_is_imported() -> None:
    assert {name: found for name, tree in TREES.items() if (found := list(_private_imports(tree)))} == {}


def test_no_private_attribute_of_another_package_is_used() -> None:
    wrong = {
        name: found
        for name, tree in TREES.items()
        if (found := list(_foreign_attributes(tree, OURS[name.partition(".")[0]])))
    }
    assert wrong == {}


def test_both_services_answer_by_the_one_http_layer() -> None:
    """A server that is subclassed is a server whose insides are relied on."""
    imports = {name for name, tree in TREES.items() for node in ast.walk(tree) if _imports_uvicorn(node)}
    assert imports <= {"examples.service"}


def _imports_uvicorn(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(name.partition(".")[0] == "uvicorn" for name in names)


def test_the_walk_finds_what_it_is_to_find(tmp_path: Path) -> None:
    tree = ast.parse(
        "from uvicorn.protocols import _x\nimport a._b\nself._of_the_base.c\nother._y\nthing._z()\n"
    )
    assert list(_private_imports(tree)) == ["uvicorn.protocols._x", "a._b"]
    assert [found.split(" ")[0] for found in _foreign_attributes(tree, {"_y"})] == [
        "self._of_the_base",
        "thing._z",
    ]
