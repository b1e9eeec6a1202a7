"""A process may open as many files as it may have connections, or does not start."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporter.running import TOKEN


def limited(soft: int, hard: int, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that may open so many files."""
    return subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PROVIDE = (
    "import resource; from exporter.http.listener import listen;"
    "listen('127.0.0.1', 0, 500, 'EXPORTER_').close();"
    "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
)


@pytest.mark.parametrize(
    ("soft", "hard", "after"), [(100, 3000, "1908"), (1950, 3000, "1950")], ids=["is raised", "is enough"]
)
def test_the_limit_of_open_files(soft: int, hard: int, after: str) -> None:
    assert limited(soft, hard, PROVIDE).stdout.strip() == after


def test_a_limit_that_cannot_be_raised_names_the_remedy() -> None:
    error = limited(100, 700, PROVIDE).stderr.splitlines()[-1]
    assert "500 connections need 1908 open files, and this process may have 700" in error
    assert "ulimit -Hn" in error


@pytest.mark.parametrize(
    ("program", "prefix"), [("exporter", "EXPORTER_"), ("config_rollback", "CONFIG_ROLLBACK_")]
)
def test_a_setting_beyond_the_limit_keeps_a_service_from_starting(
    state_dir: Path, program: str, prefix: str
) -> None:
    settings = {
        "EXPORTER_INGEST_TOKENS": TOKEN,
        "CONFIG_ROLLBACK_JWT_SECRET": "x" * 32,
        f"{prefix}STATE_DIR": str(state_dir),
        f"{prefix}MAX_CONNECTIONS": "500",
    }
    run = f"import os, runpy; os.environ |= {settings}; runpy.run_module({program!r}, run_name='__main__')"
    ended = limited(100, 700, run)
    assert ended.returncode in (1, 2)
    assert f"{prefix}MAX_CONNECTIONS: 500 connections need 1908 open files" in ended.stderr
    assert not state_dir.exists()
