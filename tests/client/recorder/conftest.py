"""Recorders of real exporters."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from driftback import Recorder
from tests.exporter.running import TOKEN, Client, Running


@pytest.fixture
def recorder_for() -> Iterator[Callable[..., Recorder]]:
    """Makes recorders that flush often. All are closed at the end."""
    recorders: list[Recorder] = []

    def make(exporter: Client | str, **options: Any) -> Recorder:
        url = exporter if isinstance(exporter, str) else exporter.url
        recorders.append(Recorder(url, **{"token": TOKEN, "flush_interval": 0.02, **options}))
        return recorders[-1]

    yield make
    for recorder in recorders:
        recorder.close(timeout=0.1)


@pytest.fixture
def recorder(exporter: Running, recorder_for: Callable[..., Recorder]) -> Recorder:
    return recorder_for(exporter)
