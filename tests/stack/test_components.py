from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import requests

from config_rollback.stack import components
from config_rollback.stack.errors import ComponentMissingError
from config_rollback.stack.ports import Ports
from tests.support.stacks import free_offset, wait_for


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
    with pytest.raises(ComponentMissingError, match=r"apt-get install prometheus.*no apt-get"):
        components.ensure(["prometheus"], tmp_path / "components")


def test_packages_are_unpacked_without_root_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has neither program: the real packages, and an Alertmanager that really serves."""
    monkeypatch.setenv("PATH", _path_without(tmp_path, "alertmanager", "prometheus-alertmanager", "amtool"))
    said: list[str] = []
    folder = tmp_path / "100% odd"
    found = components.ensure(["alertmanager", "amtool"], folder, said.append)
    assert said == ["fetching prometheus-alertmanager from the distribution's packages (once)"]
    assert components.ensure(["alertmanager"], folder, said.append)["alertmanager"] == found["alertmanager"]
    assert len(said) == 1, "a second start fetches nothing"

    config = tmp_path / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = Ports().shifted(free_offset()).alertmanager
    process = subprocess.Popen(
        [
            found["alertmanager"],
            f"--config.file={config}",
            f"--storage.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        cwd=components.working_directory(found["alertmanager"]),
    )
    try:
        wait_for("ready Alertmanager", 20, lambda: _answers(f"http://127.0.0.1:{port}/-/ready"))
    finally:
        process.terminate()
        process.wait(10)


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


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
