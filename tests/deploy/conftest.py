"""Exporters for what is installed."""

from tests.exporter.conftest import (  # noqa: F401 (pytest takes fixtures by their names)
    clock,
    exporter,
    start,
    state_dir,
)
