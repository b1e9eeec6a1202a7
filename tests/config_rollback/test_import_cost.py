"""Heavy libraries are imported by what uses them alone: an import is most of the CPU time of a start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STORAGE = {"alembic", "psycopg", "sqlalchemy"}


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        pytest.param("config_rollback.app", {"alembic", "authlib", "psycopg"}, id="service on SQLite"),
        pytest.param(
            "driftback_server.cli",
            STORAGE | {"authlib", "limits", "pydantic", "starlette", "structlog", "yaml"},
            id="command line",
        ),
    ],
)
def test_a_start_does_not_import_what_it_does_not_need(module: str, unused: set[str]) -> None:
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert unused.isdisjoint(json.loads(ended.stdout))
