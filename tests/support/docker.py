"""A Docker engine of the tests' own, and stand-ins for images that cannot be pulled without a registry.

The engine comes from Debian's docker.io, with a socket and a data folder of its own, so that nothing of the
machine's own containers is touched. The stand-ins are one Debian root file system with Debian's Prometheus,
Alertmanager, PostgreSQL, Redis and nginx, tagged with the names that docker-compose.yml wants. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.support.commands import run
from tests.support.install import install
from tests.support.stacks import ROOT, wait_for

BASE = "driftback-stand-in"
IMAGE = "driftback:0.1.0"
"""Ours, as docker-compose.yml and the manifests of Kubernetes name it."""
_PROGRAMS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
_PACKAGES = (
    "ca-certificates",
    "curl",
    "nginx-light",
    "postgresql",
    "prometheus",
    "prometheus-alertmanager",
    "python3",
    "python3-venv",
    "redis-server",
    "wget",
)

POSTGRES = """#!/bin/sh
# Does what the official image's entry point does with these variables, as a user without rights.
set -e
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
  "$bin/initdb" -D "$data" -U "$POSTGRES_USER" \\
    -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --pwfile="$POSTGRES_PASSWORD_FILE"
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  sed -i 's/^local.*/local all all trust/' "$data/pg_hba.conf"
  "$bin/pg_ctl" -D "$data" -w -o "-c listen_addresses=''" start
  for script in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 -X -U "$POSTGRES_USER" -h /run/postgresql -d "$POSTGRES_USER" -f "$script"
  done
  "$bin/pg_ctl" -D "$data" -w stop
fi
exec "$bin/postgres" -D "$data" -c 'listen_addresses=*'
"""

GRAFANA = '''#!/usr/bin/python3
"""No Grafana: no package of the distribution holds it. Reads what Grafana would read, as the user it would
be, then answers health checks: it shows that mounts, secrets and rights are there, and nothing more."""
import http.server
import os
import pathlib

files = [pathlib.Path(os.environ["GF_PATHS_CONFIG"]), pathlib.Path("/run/secrets/grafana_admin_password")]
for folder in ("GF_PATHS_PROVISIONING", "DRIFTBACK_DASHBOARDS_DIR"):
    found = [path for path in pathlib.Path(os.environ[folder]).rglob("*") if path.is_file()]
    assert found, folder
    files += found
for file in files:
    assert file.read_bytes(), file
pathlib.Path("/var/lib/grafana/grafana.db").touch()


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()


http.server.ThreadingHTTPServer((os.environ["GF_SERVER_HTTP_ADDR"], 3000), Health).serve_forever()
'''

_OWN_POSTGRES = "usermod --uid 999 postgres && groupmod --gid 999 postgres && "


class StandIn(NamedTuple):
    """How an image of docker-compose.yml is stood in for: program, its folder, and who owns that."""

    entrypoint: list[str]
    folder: str
    owner: str
    prepare: str = ""


# As in the images themselves: a named volume takes its owner from the folder of the image.
STAND_INS = {
    "prom/prometheus": StandIn(["/usr/bin/prometheus"], "/prometheus", "65534:65534"),
    "prom/alertmanager": StandIn(["/usr/bin/prometheus-alertmanager"], "/alertmanager", "65534:65534"),
    "postgres": StandIn(["/entrypoint-postgres"], "/var/lib/postgresql/data", "999:999", _OWN_POSTGRES),
    "grafana/grafana": StandIn(["/entrypoint-grafana"], "/var/lib/grafana", "472:0"),
    "nginx": StandIn([], "/var/cache/nginx", "101:101"),
}


class Engine:
    """A running dockerd; `run` calls docker or docker-compose against it."""

    def __init__(self, socket: Path) -> None:
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}

    def run(self, *words: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
        """What the command printed."""
        return run(*words, cwd=cwd, stdin=stdin, environment=self.environment)

    def build(self, checkout: Path, image: str, *options: str) -> None:
        """Builds our image, on the stand-in base."""
        words = ["--network=host", f"--build-arg=BASE={BASE}", "--tag", image, *options, "."]
        self.run("docker", "build", *words, cwd=checkout)


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
    """Makes the stand-in base and the images that are made of it."""
    root = folder / "rootfs"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name, text in (("postgres", POSTGRES), ("grafana", GRAFANA)):
        entrypoint = root / f"entrypoint-{name}"
        entrypoint.write_text(text)
        entrypoint.chmod(0o755)
    _trust_what_the_host_trusts(root)
    archive = folder / "rootfs.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    engine.run("docker", "import", archive, BASE)
    archive.unlink()
    shutil.rmtree(root)
    tag_stand_ins(engine)


def foreign_images() -> set[str]:
    """What docker-compose.yml takes from a registry."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return {service["image"] for service in compose["services"].values() if "build" not in service}


def tag_stand_ins(engine: Engine) -> None:
    """Tags one for every foreign image of docker-compose.yml; one that has no stand-in is a KeyError."""
    for image in foreign_images():
        stand_in = STAND_INS[re.sub(r":.*", "", image)]
        lines = [
            f"FROM {BASE}",
            f"RUN {stand_in.prepare}install -d {stand_in.folder} && chown {stand_in.owner} {stand_in.folder}",
        ]
        if stand_in.entrypoint:
            lines.append(f"ENTRYPOINT {json.dumps(stand_in.entrypoint)}")
        engine.run("docker", "build", "--tag", image, "-", stdin="\n".join(lines))


def program_image(engine: Engine, image: str, program: Path) -> None:
    """Tags the stand-in base with one program, in /bin, as its entry point."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy2(program, folder)
        lines = [f"FROM {BASE}", f"COPY {program.name} /bin/", f'ENTRYPOINT ["/bin/{program.name}"]']
        (Path(folder) / "Dockerfile").write_text("\n".join(lines))
        engine.run("docker", "build", "--tag", image, folder)


def _trust_what_the_host_trusts(root: Path) -> None:
    """Behind a proxy that inspects TLS, a build reaches a package index only with the host's CA bundle."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        shutil.copy(bundle, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")
        (root / "etc" / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
