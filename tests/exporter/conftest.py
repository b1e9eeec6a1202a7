"""Fixtures of the exporter's tests. Each test has its own state folder, registry and clock."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exporter.running import Clock, Process, Running, settings_for


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """The state folder of the test's exporters."""
    return tmp_path / "state"


@pytest.fixture
def start(state_dir: Path, clock: Clock) -> Iterator[Callable[..., Running]]:
    """Starts an exporter in a thread; settings may be given by name. All are stopped at the end."""
    running: list[Running] = []

    def start(**changes: Any) -> Running:
        running.append(Running(settings_for(state_dir, **changes), clock))
        return running[-1]

    yield start
    for exporter in running:
        exporter.stop()


@pytest.fixture
def exporter(start: Callable[..., Running]) -> Running:
    """An exporter with default settings."""
    return start()


@pytest.fixture
def launch(state_dir: Path) -> Iterator[Callable[..., Process]]:
    """Starts an exporter as a process; environment variables may be given by name. All end with the test."""
    processes: list[Process] = []

    def launch(folder: Path = state_dir, **environment: str) -> Process:
        processes.append(Process(folder, **environment))
        return processes[-1]

    yield launch
    for process in processes:
        process.end()


@pytest.fixture
def update_golden() -> bool:
    """Whether whole outputs are to be written again instead of compared: UPDATE_GOLDEN=1."""
    return os.environ.get("UPDATE_GOLDEN") == "1"
