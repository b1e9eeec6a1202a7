"""Commands that a test runs and that have to succeed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.stacks import ROOT


def run(
    *words: str | Path, cwd: Path = ROOT, stdin: str | None = None, environment: dict[str, str] | None = None
) -> str:
    """What the command printed; its whole output is in the error where it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        env=environment,
        cwd=cwd,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}:\n{done.stdout[-4000:]}"
    return done.stdout
