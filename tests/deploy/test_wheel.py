"""The two wheels: what services import, and everything that `driftback up` needs outside a checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftback import __version__
from tests.exporter.running import TOKEN, Running
from tests.support.commands import run
from tests.support.web import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both wheels, built from what git does not ignore."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels = folder / "source", folder / "wheels"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if not (ROOT / name).is_file():
            continue  # deleted, not committed yet
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--wheel-dir={wheels}", str(source / "client"), str(source)], check=True)
    return wheels


def _unpack(wheels: Path, site: Path, *names: str) -> Path:
    """A folder of modules, as an installer makes it."""
    for name in names:
        (wheel,) = wheels.glob(f"{name}-{__version__}-*.whl")
        zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions."""
    return _unpack(wheels, tmp_path_factory.mktemp("site"), "driftback", "driftback_server")


@pytest.fixture(scope="module")
def client(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a service installs."""
    return _unpack(wheels, tmp_path_factory.mktemp("client"), "driftback")


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


def test_the_server_needs_the_client_of_its_own_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"driftback=={__version__}" in project["dependencies"]


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


def _pythons() -> dict[str, str]:
    """The interpreters of this machine by version, from 3.10: those on PATH, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *pyenv.glob("*/bin")]
    found = {f"python3.{sys.version_info.minor}": sys.executable}
    for path in (path for folder in folders for path in sorted(folder.glob("python3.*"))):
        name = re.fullmatch(r"python3\.(\d+)", path.name)
        if name and int(name[1]) >= 10 and path.name not in found:
            tried = subprocess.run([path, "-c", ""], capture_output=True, check=False)
            if tried.returncode == 0:  # a shim of pyenv may refuse
                found[path.name] = str(path)
    return dict(sorted(found.items()))


PYTHONS = _pythons()
SERVICE = """
import asyncio, json, sys
from pathlib import Path

before = set(sys.modules)
from driftback import AsyncConfigClient, ConfigClient, Recorder
import driftback.testing
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
assert tops - sys.stdlib_module_names == {"driftback"}, tops

exporter, token, configs_url = sys.argv[1:]
arguments = {"token": "t", "persona": "concierge", "cache_dir": Path("cache")}
configs = ConfigClient(configs_url, **arguments)
configs.start()
configs.wait_ready(60)
with Recorder(exporter, token=token) as recorder:
    with recorder.message(journey="chat", config=configs.current) as message:
        message.tokens(input=3)
    try:
        with recorder.message(journey="chat", config=configs.current):
            raise TimeoutError
    except TimeoutError:
        pass
    assert recorder.flush(60)
    assert recorder.counts() == (2, 0, 0, 0), recorder.counts()
configs.close()

async def follow():
    async with AsyncConfigClient(configs_url, **arguments) as configs:
        return (await configs.wait_ready(60)).version

assert asyncio.run(follow()) == 7
print("%d.%d" % sys.version_info[:2])
"""


@pytest.fixture
def configs() -> Iterator[str]:
    """The URL of a config_rollback whose version 7 is active for ever."""

    body = json.dumps({"data": {"persona": "concierge", "version": 7, "config": {}}}).encode()
    with serving(lambda _: (200, "application/json", body)) as address:
        yield f"http://{address}"


@pytest.mark.parametrize("python", PYTHONS)
def test_a_service_runs_with_each_python_of_the_machine(
    client: Path, exporter: Running, configs: str, tmp_path: Path, python: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(client)}
    command = [PYTHONS[python], "-W", "error", "-s", "-c", SERVICE, exporter.url, TOKEN, configs]
    printed = run(*command, cwd=tmp_path, environment=environment)
    assert printed == f"{python.removeprefix('python')}\n"
    assert exporter.value("conversation_messages_total", config_version="7") == 2
    assert exporter.value("conversation_llm_errors_total", reason="timeout") == 1


NEIGHBOURS = {
    "fastapi": "==0.128.*",
    "sqlalchemy": "==2.0.*",
    "pydantic": "==2.10.*",
    "redis": "==8.*",
    "opentelemetry-sdk": "",
    "opentelemetry-exporter-otlp-proto-http": "",
}


@pytest.mark.soak
def test_it_is_installed_beside_the_versions_that_a_service_has(wheels: Path, tmp_path: Path) -> None:
    # By a package index: what these need in their turn is found there.
    (wheel,) = wheels.glob("driftback-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [name + version for name, version in NEIGHBOURS.items()]
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, *wanted)
    run(python, "-m", "pip", "check")
    imports = "import driftback, driftback.testing, fastapi, opentelemetry.sdk, pydantic, redis, sqlalchemy"
    assert run(python, "-c", f"{imports}; print(pydantic.VERSION[:4])") == "2.10\n"
