"""The commands in the documents work as written, against a running stack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stacks import DRIFTBACK, ROOT, RunningStack, stack

pytestmark = pytest.mark.soak

PERSONAS = ROOT / "examples" / "personas"
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,100,20\n2023-11-16 18:00:01.0,50,10\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("documents")
    with stack(folder / "state", "--scrape-interval", "1s", "--evaluation-interval", "1s") as started:
        yield started


def _run(running: RunningStack, script: str, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{DRIFTBACK.parent}{os.pathsep}{os.environ['PATH']}",
        "DRIFTBACK_STATE_DIR": running.info["state_dir"],
        "DRIFTBACK_URL": running.url("config_rollback"),
        "EXPORTER_URL": running.url("exporter"),
        "EXPORTER_TOKEN": running.info["ingest_token"],
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        input="y\n" * 5,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", ["personas.md", "start.md"])
def test_the_commands_of_a_page(running: RunningStack, page: str) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        _run(running, block, ROOT)


def test_the_commands_of_the_readme(running: RunningStack, tmp_path: Path) -> None:
    chapter = (ROOT / "README.md").read_text().partition("## Operate\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (driftback .*)$", chapter, re.M)
    assert len(commands) >= 8
    shutil.copy(PERSONAS / "concierge.yaml", tmp_path)
    (tmp_path / "TRACE.csv").write_text(TRACE)
    # A version to come from.
    _run(running, f"driftback persona publish {PERSONAS / 'concierge-careless.yaml'} --yes", tmp_path)
    for command in commands:
        _run(running, command, tmp_path)
