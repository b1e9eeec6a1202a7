"""Alertmanager with its own web page, which Debian's package leaves out."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.grafana import model

VERSION = "v0.25.0"
"""The same as Debian 12's."""

_FOLDER = model.ROOT / "build" / "alertmanager-web"


def ensure_with_page() -> Path:
    """The program, built from the Go module once (about three minutes); its source carries the page."""
    program = _FOLDER / "alertmanager"
    if not program.is_file():
        assert shutil.which("go"), "Alertmanager with its page is built by Go (apt-get install golang-go)"
        subprocess.run(
            ["go", "install", f"github.com/prometheus/alertmanager/cmd/alertmanager@{VERSION}"],
            env=os.environ | {"GOBIN": str(_FOLDER)},
            check=True,
        )
    return program
