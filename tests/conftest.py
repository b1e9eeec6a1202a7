"""For all tests: the order of the files, and the programs that check rules."""

from pathlib import Path

import pytest

from driftback_server.stack.components import ensure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that take minutes first. A worker that began one last would run alone for these minutes."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)


@pytest.fixture(scope="session")
def promtool() -> Path:
    return ensure(["promtool"])["promtool"]


@pytest.fixture(scope="session")
def amtool() -> Path:
    return ensure(["amtool"])["amtool"]
