"""Prometheus 3, which Debian 12 does not have: built from its Go module, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "v0.316.0"
"""The Go module's name for Prometheus 3.16.0."""
FOLDER = ROOT / "build" / "prometheus-3"
_PROGRAMS = ("prometheus", "promtool")


def ensure() -> Path:
    """The folder with its programs; where they are not there, three minutes on two cores.

    Put prebuilt ones there, or Go on PATH. Service discovery is most of the build and is left out, but for
    Kubernetes.
    """
    if not all((FOLDER / name).is_file() for name in _PROGRAMS):
        assert shutil.which("go"), f"Prometheus 3 is built by Go; or put {_PROGRAMS} into {FOLDER}"
        module = "github.com/prometheus/prometheus/cmd"
        subprocess.run(
            [
                "go",
                "install",
                "-tags=remove_all_sd,enable_kubernetes_sd",
                *(f"{module}/{name}@{VERSION}" for name in _PROGRAMS),
            ],
            env=os.environ | {"GOBIN": str(FOLDER), "CGO_ENABLED": "0"},
            check=True,
        )
    return FOLDER
