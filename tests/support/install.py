"""Installs what the tests need and a checkout cannot bring: Prometheus, Alertmanager, Chromium.

Run by `make test`. A component that cannot be had fails the run, with the command that would install it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from config_rollback.stack import components
from config_rollback.stack.errors import ComponentMissingError

# Executable → Debian packages. Chromium needs dozens of libraries, so it is installed, not unpacked.
SYSTEM_PACKAGES = {
    "chromium": ["chromium", "fonts-dejavu-core"],
    "redis-check-rdb": ["redis-tools"],  # holds the server too (see redis.py)
}


def _install(packages: list[str]) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        subprocess.run([*prefix, *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> int:
    """Returns 0 when everything is there."""
    try:
        components.ensure(components.COMPONENTS, progress=print)
    except ComponentMissingError as error:
        print(error, file=sys.stderr)
        return 1
    missing = [
        package
        for executable, packages in SYSTEM_PACKAGES.items()
        if shutil.which(executable) is None
        for package in packages
    ]
    if missing:
        print(f"installing {' '.join(missing)}", flush=True)
        try:
            _install(missing)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{error}\nThe tests need: sudo apt-get install {' '.join(missing)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
