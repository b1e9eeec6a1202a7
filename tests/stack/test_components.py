from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from config_rollback.stack import components
from config_rollback.stack.errors import ComponentMissingError


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
    # As on a machine that has neither, with what apt and dpkg themselves need.
    monkeypatch.setenv("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/bin:/usr/bin")
    said: list[str] = []
    found = components.ensure(["alertmanager", "amtool"], tmp_path, said.append)
    if not str(found["amtool"]).startswith(str(tmp_path)):
        assert said == [], "the system has it: nothing to fetch"
    version = subprocess.run([found["amtool"], "--version"], capture_output=True, text=True, check=True)
    assert "amtool, version" in version.stdout + version.stderr
