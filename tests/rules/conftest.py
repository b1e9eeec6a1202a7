"""The programs that check and evaluate the rules."""

from pathlib import Path

import pytest

from driftback_server.stack import components


@pytest.fixture(scope="session")
def promtool() -> Path:
    return components.ensure(["promtool"])["promtool"]


@pytest.fixture(scope="session")
def amtool() -> Path:
    return components.ensure(["amtool"])["amtool"]


@pytest.fixture(scope="session")
def prometheus() -> Path:
    return components.ensure(["prometheus"])["prometheus"]


@pytest.fixture(scope="session")
def alertmanager() -> Path:
    return components.ensure(["alertmanager"])["alertmanager"]
