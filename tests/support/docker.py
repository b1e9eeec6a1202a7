"""A Docker engine of the tests' own, and stand-ins for images that cannot be pulled without a registry.

The engine comes from Debian's docker.io, with a socket and a data folder of its own, so that nothing of the
machine's own containers is touched. The stand-ins are one Debian root file system with Debian's Prometheus,
Alertmanager and PostgreSQL, tagged with the names that docker-compose.yml wants. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.support.install import install
from tests.support.stacks import ROOT, wait_for

BASE = "driftback-stand-in"
_PROGRAMS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
_PACKAGES = (
    "ca-certificates",
    "postgresql",
    "prometheus",
    "prometheus-alertmanager",
    "python3",
    "python3-venv",
    "wget",
)

POSTGRES = """#!/bin/sh
# Does what the official image's entry point does with these variables.
set -e
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
chown postgres "$data" && chmod 700 "$data" && mkdir -p /run/postgresql && chown postgres /run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
  cp "$POSTGRES_PASSWORD_FILE" /tmp/password && chown postgres /tmp/password
  runuser -u postgres -- "$bin/initdb" -D "$data" -U "$POSTGRES_USER" \\
    -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --pwfile=/tmp/password
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  sed -i 's/^local.*/local all all trust/' "$data/pg_hba.conf"
  runuser -u postgres -- "$bin/pg_ctl" -D "$data" -w -o "-c listen_addresses=''" start
  runuser -u postgres -- createdb -U "$POSTGRES_USER" -h /run/postgresql "$POSTGRES_DB"
  runuser -u postgres -- "$bin/pg_ctl" -D "$data" -w stop
fi
exec runuser -u postgres -- "$bin/postgres" -D "$data" -c 'listen_addresses=*'
"""

# Image of docker-compose.yml → how the stand-in is started.
ENTRYPOINTS = {
    "prom/prometheus": ["/usr/bin/prometheus"],
    "prom/alertmanager": ["/usr/bin/prometheus-alertmanager"],
    "postgres": ["/entrypoint-postgres"],
}


class Engine:
    """A running dockerd; `run` calls docker or docker-compose against it."""

    def __init__(self, socket: Path) -> None:
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}

    def run(self, *words: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
        """What the command printed; its whole output is in the error where it fails."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            cwd=cwd,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(map(str, words))}:\n{done.stdout[-4000:]}"
        return done.stdout


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Installs what is missing, starts a dockerd under `folder`, and ends it."""
    assert os.geteuid() == 0, "a Docker engine of one's own needs root: run this target as root"
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        install(missing)
    # A short path, for a Unix socket's name has at most 107 bytes; and apart from what pytest deletes.
    run = Path(f"/run/driftback-test-{os.getpid()}")
    run.mkdir(mode=0o700)
    socket = run / "docker.sock"
    with (folder / "dockerd.log").open("w") as log:
        process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={folder / 'data'}",
                f"--exec-root={run / 'exec'}",
                f"--host=unix://{socket}",
                f"--pidfile={folder / 'pid'}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        started = Engine(socket)
        wait_for("Docker engine", 60, lambda: process.poll() is not None or _answers(started))
        assert process.poll() is None, (folder / "dockerd.log").read_text()[-4000:]
        yield started
    finally:
        process.terminate()
        process.wait(60)
        # dockerd leaves its network name space mounted.
        subprocess.run(["umount", "--lazy", run / "exec" / "netns" / "default"], check=False)
        shutil.rmtree(run)


def _answers(engine: Engine) -> bool:
    done = subprocess.run(["docker", "info"], env=engine.environment, capture_output=True, check=False)
    return done.returncode == 0 and b"Server Version" in done.stdout


def stand_ins(engine: Engine, folder: Path) -> None:
    """Makes the stand-in base, and tags one for every foreign image of docker-compose.yml but Grafana."""
    root = folder / "rootfs"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    entrypoint = root / "entrypoint-postgres"
    entrypoint.write_text(POSTGRES)
    entrypoint.chmod(0o755)
    _trust_what_the_host_trusts(root)
    archive = folder / "rootfs.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    engine.run("docker", "import", archive, BASE)
    archive.unlink()
    shutil.rmtree(root)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        name = re.sub(r":.*", "", service["image"])
        if name in ENTRYPOINTS:
            words = ", ".join(f'"{word}"' for word in ENTRYPOINTS[name])
            engine.run(
                "docker",
                "build",
                "--tag",
                service["image"],
                "-",
                stdin=f"FROM {BASE}\nENTRYPOINT [{words}]\n",
            )


def _trust_what_the_host_trusts(root: Path) -> None:
    """Behind a proxy that inspects TLS, a build reaches a package index only with the host's CA bundle."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        shutil.copy(bundle, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")
        (root / "etc" / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
