"""Finds Prometheus and Alertmanager: on PATH, else unpacked from the distribution's packages.

`apt-get download` and `dpkg -x` need no root and start no system service, which a plain `apt-get install` of
these packages would do (and take ports 9090 and 9093).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from driftback_server.stack.errors import ComponentMissingError

_APT_TIMEOUT_SECONDS = 300

# Debian's Prometheus and Alertmanager read their pages and default templates from this folder, which an
# unpacked package does not have. A path of the same length, relative to the package's usr/, stands in its
# place (see `working_directory`).
_SHARE = b"/usr/share/prometheus"
_SHARE_RELATIVE = b"././/share/prometheus"


@dataclass(frozen=True)
class Component:
    """A program, the names it goes by, and the Debian package that holds it."""

    executables: tuple[str, ...]
    package: str


COMPONENTS: dict[str, Component] = {
    "prometheus": Component(("prometheus",), "prometheus"),
    "promtool": Component(("promtool",), "prometheus"),
    "alertmanager": Component(("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager"),
    "amtool": Component(("amtool",), "prometheus-alertmanager"),
    "pushgateway": Component(("pushgateway", "prometheus-pushgateway"), "prometheus-pushgateway"),
    "victoria-metrics": Component(("victoria-metrics",), "victoria-metrics"),
    "vmalert": Component(("vmalert",), "victoria-metrics"),
    "nginx": Component(("nginx",), "nginx"),
}


def default_directory() -> Path:
    """Where unpacked packages are kept: `$DRIFTBACK_COMPONENTS_DIR`, else a folder of the checkout's build or
    of the user's cache, so that two stacks share one download."""
    configured = os.environ.get("DRIFTBACK_COMPONENTS_DIR")
    if configured:
        return Path(configured)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "build" / "components"
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "driftback" / "components"


def find(name: str, directory: Path | None = None) -> Path | None:
    """The program called `name` (a key of COMPONENTS), or None if it is not on this machine yet."""
    search = [*os.environ.get("PATH", "").split(os.pathsep)]
    unpacked = (directory or default_directory()) / "usr"
    search += [str(unpacked / "bin"), str(unpacked / "sbin")]
    for executable in COMPONENTS[name].executables:
        found = shutil.which(executable, path=os.pathsep.join(search))
        if found:
            return Path(found)
    return None


def ensure(
    names: Iterable[str],
    directory: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Path]:
    """The programs called `names`, downloaded first if one is missing.

    Raises ComponentMissingError, naming the packages to install, where they cannot be downloaded.
    """
    target = directory or default_directory()
    wanted = list(names)
    packages = sorted({COMPONENTS[name].package for name in wanted if find(name, target) is None})
    if packages:
        progress(f"fetching {' and '.join(packages)} from the distribution's packages (once)")
        _download(packages, target)
    found = {name: find(name, target) for name in wanted}
    missing = sorted(COMPONENTS[name].package for name, path in found.items() if path is None)
    if missing:
        raise ComponentMissingError(_advice(missing, "the package does not contain the program"))
    return {name: path for name, path in found.items() if path is not None}


def working_directory(program: Path) -> Path:
    """Where `program` is to be started: the folder above its bin/, from which an unpacked program finds its
    own files. Programs of the system do not mind."""
    return program.parents[1]


def _download(packages: list[str], directory: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ComponentMissingError(_advice(packages, "apt-get and dpkg were not found"))
    archives = directory / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    first = _run(["apt-get", "download", *packages], archives)
    if first.returncode != 0:
        # Package lists may be absent, and only root may refresh the system's: keep lists of our own.
        options = _private_apt_options(directory / "apt")
        refresh = _run(["apt-get", *options, "update"], archives)
        second = _run(["apt-get", *options, "download", *packages], archives)
        if second.returncode != 0:
            raise ComponentMissingError(_advice(packages, second.stderr.strip() or refresh.stderr.strip()))
    for archive in sorted(archives.glob("*.deb")):
        unpacked = _run(["dpkg", "-x", str(archive), str(directory)], archives)
        if unpacked.returncode != 0:
            raise ComponentMissingError(_advice(packages, unpacked.stderr.strip()))
        archive.unlink()
    for name in ("prometheus", "prometheus-alertmanager"):
        program = directory / "usr" / "bin" / name
        if program.is_file():
            _relocate(program)


def _relocate(program: Path) -> None:
    content = program.read_bytes()
    patched = content.replace(_SHARE, _SHARE_RELATIVE)
    if patched != content:
        # A new file: one that runs cannot be written to.
        fresh = program.with_suffix(".new")
        fresh.write_bytes(patched)
        fresh.chmod(0o755)
        fresh.replace(program)


def _private_apt_options(directory: Path) -> list[str]:
    (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return [
        "-o",
        f"Dir::State::Lists={directory / 'lists'}",
        "-o",
        f"Dir::Cache={directory / 'cache'}",
        "-o",
        "APT::Sandbox::User=root",
    ]


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=_APT_TIMEOUT_SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )


def _advice(packages: list[str], cause: str) -> str:
    names = " ".join(packages)
    return (
        f"missing: {names}. Install them (Debian and Ubuntu: `apt-get install {names}`; elsewhere put the "
        f"binaries of prometheus.io on PATH) and try again. Cause: {cause}"
    )
