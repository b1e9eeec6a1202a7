"""What the service and the command line write is readable by its owner alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from config_rollback.auth.tokens import mint_access_token
from tests.config_rollback.running import SECRET
from tests.config_rollback.test_main import Process


def modes(folder: Path) -> dict[str, str]:
    """The permissions of all files and folders in it."""
    return {str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777) for path in folder.rglob("*")}


def test_what_is_written_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        process = Process(tmp_path)
        process.start()
        private = {"config_rollback.db": "0o600", "config_rollback.db-wal": "0o600"}
        private["config_rollback.db-shm"] = "0o600"
        assert modes(tmp_path / "state") == private
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
        # As an earlier release made it.
        for path in (tmp_path / "state").iterdir():
            path.chmod(0o644)
        assert process.end(signal.SIGKILL) < 0
        process.start()
        assert modes(tmp_path / "state") == private
        copies = tmp_path / "copies"
        copies.mkdir()
        token = mint_access_token(SECRET, subject="ann", role="ops")
        database = f"sqlite:///{tmp_path}/state/config_rollback.db"
        for command in (
            ["db", "backup", str(copies / "copy.db"), "--database-url", database],
            ["audit", "export", str(copies / "audit.jsonl"), "--url", process.url, "--token", token],
        ):
            script = "from driftback_server.cli import main; main()"
            subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True)
        assert modes(copies) == {"copy.db": "0o600", "audit.jsonl": "0o600"}
        process.end(signal.SIGTERM)
    finally:
        os.umask(before)
