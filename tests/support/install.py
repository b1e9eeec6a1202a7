"""Installs what the tests need and a checkout cannot bring: Prometheus, Alertmanager, Chromium, PostgreSQL.

Run by `make test`. A component that cannot be had fails the run, with the command that would install it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from driftback_server.stack import components
from driftback_server.stack.errors import ComponentMissingError
from tests.support import postgres

# Executable → Debian packages. Chromium needs dozens of libraries, so it is installed, not unpacked.
SYSTEM_PACKAGES = {
    "chromium": ["chromium", "fonts-dejavu-core"],
    "redis-check-rdb": ["redis-tools"],  # holds the server too (see redis.py)
    "pgbouncer": ["pgbouncer"],
}


POSTGRES_PACKAGE = "postgresql"
# Debian makes and starts a cluster with the package by default; the tests start their own.
NO_CLUSTER = (
    "mkdir -p /etc/postgresql-common/createcluster.d && "
    "echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/driftback.conf"
)


def install(packages: list[str]) -> None:
    """Installs Debian packages; raises OSError or CalledProcessError."""
    apt_install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    commands = [["apt-get", "update", "-qq"]]
    if POSTGRES_PACKAGE in packages:
        commands += [[*apt_install, "postgresql-common"], ["sh", "-c", NO_CLUSTER]]
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in [*commands, [*apt_install, *packages]]:
        subprocess.run([*prefix, *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def _missing_packages() -> list[str]:
    missing = [
        package
        for executable, packages in SYSTEM_PACKAGES.items()
        if shutil.which(executable) is None
        for package in packages
    ]
    try:
        postgres.find_binaries()
    except postgres.PostgresMissingError:
        missing.append(POSTGRES_PACKAGE)
    return missing


def main() -> int:
    """Returns 0 when everything is there."""
    try:
        components.ensure(components.COMPONENTS, progress=print)
    except ComponentMissingError as error:
        print(error, file=sys.stderr)
        return 1
    missing = _missing_packages()
    if missing:
        print(f"installing {' '.join(missing)}", flush=True)
        try:
            install(missing)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{error}\nThe tests need: sudo apt-get install {' '.join(missing)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
