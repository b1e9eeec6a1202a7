"""The order of the tests, which is also the order in which `make test` gives files to its workers."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

LONGEST_FIRST = ("end_to_end", "grafana", "rules", "deploy")
"""Folders whose tests mostly wait for real processes: begun last, all would wait for them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the folders of LONGEST_FIRST first."""
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(HERE).parts[0], len(rank)))
