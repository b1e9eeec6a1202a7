"""Real exporters."""

from tests.exporter.conftest import (  # noqa: F401 (pytest takes fixtures by their names)
    clock,
    exporter,
    launch,
    start,
    state_dir,
)
