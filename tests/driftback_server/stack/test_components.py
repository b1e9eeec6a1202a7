from __future__ import annotations

from pathlib import Path

import pytest

from driftback_server.stack import components
from driftback_server.stack.errors import ComponentMissingError
from driftback_server.stack.ports import Ports
from tests.support.processes import process
from tests.support.stacks import answers, free_offset


def test_a_program_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "path").mkdir()
    program = tmp_path / "path" / "alertmanager"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert components.find("alertmanager", tmp_path / "components") == program


def test_without_apt_the_message_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComponentMissingError, match=r"apt-get install prometheus.*dpkg were not found"):
        components.ensure(["prometheus"], tmp_path / "components")


@pytest.mark.parametrize(
    ("name", "package", "config", "page"),
    [
        pytest.param("prometheus", "prometheus", "global: {}", "/", id="Prometheus shows its page"),
        pytest.param(
            "alertmanager",
            "prometheus-alertmanager",
            "{route: {receiver: nobody}, receivers: [{name: nobody}]}",
            "/-/ready",
            id="Alertmanager is ready",
        ),
    ],
)
def test_a_package_is_unpacked_without_root_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, config: str, page: str
) -> None:
    """As on a machine that has no such program: the real package, and a program that really serves."""
    monkeypatch.setenv("PATH", _path_without(tmp_path, *components.COMPONENTS[name].executables))
    said: list[str] = []
    folder = tmp_path / "100% odd"
    found = components.ensure([name], folder, said.append)
    assert said == [f"fetching {package} from the distribution's packages (once)"]
    assert components.ensure([name], folder, said.append) == found
    assert len(said) == 1, "a second start fetches nothing"

    (tmp_path / "config.yml").write_text(config)
    port = Ports().shifted(free_offset()).prometheus
    data = {"prometheus": "--storage.tsdb.path", "alertmanager": "--storage.path"}[name]
    command = [
        found[name],
        f"--config.file={tmp_path / 'config.yml'}",
        f"{data}={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *(["--cluster.listen-address="] if name == "alertmanager" else []),
    ]
    ready = f"http://127.0.0.1:{port}{page}"
    folder = components.working_directory(found[name])
    with process(command, tmp_path / "log", lambda: answers(ready), cwd=folder):
        pass


def _path_without(tmp_path: Path, *programs: str) -> str:
    """A PATH with everything of the system's but these programs."""
    shadow = tmp_path / "path"
    shadow.mkdir()
    for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            link = shadow / program.name
            if program.name not in programs and not link.is_symlink():
                link.symlink_to(program)
    return str(shadow)
