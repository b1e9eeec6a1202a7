"""tests/security_cases.md: every case has a test that is there, runs by default, and where it says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.config_rollback.conftest import ON_BOTH_DATABASES

TESTS = Path(__file__).resolve().parents[1]


class Row(NamedTuple):
    """A line of the table."""

    cases: range
    both: bool
    tests: list[str]


def table() -> list[Row]:
    found = []
    for line in (TESTS / "security_cases.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"\d+(-\d+)?", cells[0]):
            first, _, last = cells[0].partition("-")
            tests = re.findall(r"`([^`]+)`", cells[3])
            found.append(Row(range(int(first), int(last or first) + 1), cells[2] == "both", tests))
    return found


ROWS = table()


@cache
def default_tests(file: str) -> set[str]:
    """The test functions of a file that a plain `pytest` runs."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(re.match(r"pytest\.mark\.(soak|skip|xfail)", ast.unparse(d)) for d in node.decorator_list)
    }


def test_every_case_is_in_the_table_once() -> None:
    cases = [case for row in ROWS for case in row.cases]
    assert cases == list(range(1, len(cases) + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"case {row.cases[0]}")
def test_the_tests_of_a_case_are_there_and_on_its_databases(row: Row) -> None:
    assert row.tests
    on_both = set()
    for name in row.tests:
        file, _, function = name.partition("::")
        assert function in default_tests(file), name
        if Path(file).stem in ON_BOTH_DATABASES and file.startswith("config_rollback/"):
            on_both.add(name)
    assert bool(on_both) == row.both


def test_a_test_that_names_a_case_is_in_its_row() -> None:
    listed = {(case, name) for row in ROWS for case in row.cases for name in row.tests}
    for path in (TESTS / "config_rollback").rglob("test_*.py"):
        file = str(path.relative_to(TESTS))
        for function in default_tests(file):
            if found := re.match(r"test_(\d+)_(?:to_(\d+)_)?", function):
                for case in range(int(found[1]), int(found[2] or found[1]) + 1):
                    assert (case, f"{file}::{function}") in listed
