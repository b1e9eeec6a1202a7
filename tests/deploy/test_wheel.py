"""The two wheels: what services import, and everything that `driftback up` needs outside a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from driftback import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both wheels, built from what git does not ignore, and unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if not (ROOT / name).is_file():
            continue  # deleted, not committed yet
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}"]
    subprocess.run([*command, str(source / "client"), str(source)], check=True)
    for name in ("driftback", "driftback_server"):
        (wheel,) = wheels.glob(f"{name}-{__version__}-*.whl")
        zipfile.ZipFile(wheel).extractall(site)
    return site


PATTERNS = (
    "web/pages/templates/*.html",
    "web/pages/static/*",
    "storage/migrations/versions/*.py",
    "py.typed",
)


def _run(site: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=site, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_stack_finds_its_files_in_the_wheel(installed: Path) -> None:
    code = "from driftback_server.stack.layout import assets_dir; print(assets_dir())"
    assets = Path(_run(installed, code).strip())
    assert assets == installed / "driftback_server" / "_assets"
    for folder, pattern in (
        ("rules", "*.yml"),
        ("prometheus", "*.yml"),
        ("prometheus/templates", "*.tmpl"),
        ("grafana", "grafana.ini"),
        ("grafana/generated", "*.json"),
        ("grafana/provisioning", "*/*.yml"),
        ("examples", "*.py"),
        ("examples/personas", "*.yaml"),
    ):
        wanted = {path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)}
        assert wanted
        assert {path.relative_to(assets) for path in (assets / folder).glob(pattern)} == wanted


def test_pages_migrations_and_types_are_in_the_wheel(installed: Path) -> None:
    for pattern in PATTERNS:
        wanted = {
            path.relative_to(ROOT) for path in (ROOT / "config_rollback").glob(pattern) if path.is_file()
        }
        assert wanted
        found = {path.relative_to(installed) for path in (installed / "config_rollback").glob(pattern)}
        assert wanted <= found


def test_the_command_answers_from_the_wheel(installed: Path) -> None:
    code = (
        "import sys; sys.argv = ['driftback', 'up', '--help']; from driftback_server.cli import main; main()"
    )
    assert "--port-offset" in _run(installed, code)
