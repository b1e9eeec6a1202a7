"""Packages that Grafana publishes with npm, for checks in Node and in a browser."""

import shutil
import subprocess
from pathlib import Path


def install(folder: Path, *words: str) -> None:
    """Makes `folder` and installs packages there; `words` are npm's, packages and options."""
    assert shutil.which("npm"), "Grafana's packages are fetched by npm (apt-get install npm)"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", *words]
    subprocess.run(command, cwd=folder, check=True)
