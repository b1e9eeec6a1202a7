"""The commands in the documents work as written, against a running stack."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.postgres import Server
from tests.support.stacks import DRIFTBACK, ROOT, RunningStack, stack

pytestmark = pytest.mark.soak

OWNER_URL = "postgresql://driftback_owner@host/driftback"
PERSONAS = ROOT / "examples" / "personas"
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,100,20\n2023-11-16 18:00:01.0,50,10\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("documents")
    with stack(folder / "state", "--scrape-interval", "1s", "--evaluation-interval", "1s") as started:
        yield started


def _run(running: RunningStack, script: str, folder: Path) -> str:
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
    return done.stdout


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
    _run(running, f"driftback persona publish {PERSONAS / 'concierge-careless.yaml'}", tmp_path)
    for command in commands:
        _run(running, command, tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """PostgreSQL with the roles and the database that operations.md makes, as it is written there."""
    server = Server()
    (script,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.S)
    before, _, inside = script.partition("-- in the database driftback:\n")
    try:
        for text, database in ((before, "postgres"), (inside, "driftback")):
            for statement in filter(None, text.split(";\n")):
                server.execute(statement, database)
        yield server
    finally:
        server.close()


def test_the_commands_of_operations(running: RunningStack, server: Server, tmp_path: Path) -> None:
    document = yaml.safe_load((PERSONAS / "concierge.yaml").read_text())
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(document | {"persona": "of-operations"}))
    _run(running, "driftback persona publish own.yaml --yes", tmp_path)
    (tmp_path / "backup").mkdir()
    restored = server.create_database()
    server.execute(f"ALTER DATABASE {restored} OWNER TO driftback_owner")
    newest = json.loads(_run(running, "driftback audit verify --json", tmp_path))["head"]

    text = (ROOT / "docs" / "operations.md").read_text()
    commands = re.findall(r"^    ((?:driftback|pg_dump) (?:.*\\\n)*.*)$", text, re.M)
    commands += re.findall(r"`(pg_restore [^`]*)`", text)
    for command in commands:
        for written, meant in (
            (OWNER_URL, f"'{server.url('driftback', 'driftback_owner')}'"),
            ("--dbname=…", f"--dbname='{server.url(restored, 'driftback_owner')}'"),
            ("--state-dir …", f"--state-dir {running.info['state_dir']}"),
            ("1234:1:5f…", f"{newest['audit_id']}:{newest['hash']}"),
            ("/backup/", f"{tmp_path}/backup/"),
            ("pg_", server.program("pg_")),
        ):
            command = command.replace(written, meant)
        assert "…" not in command
        _run(running, command, tmp_path)
    assert len(commands) == 10
    assert (tmp_path / "audit.jsonl").read_text()
    assert list((tmp_path / "backup").iterdir())
    version = "SELECT version_num FROM alembic_version"
    assert server.execute(version, "driftback") == server.execute(version, restored)


def test_the_upgrade_of_deployment(running: RunningStack, tmp_path: Path) -> None:
    chapter = (ROOT / "docs" / "deployment.md").read_text().partition("\n## Upgrade\n")[2]
    (command,) = re.findall(r"^    (driftback .*)$", chapter, re.M)
    assert "is up to date" in _run(running, command, tmp_path)
