"""The rule files are what their templates give."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.rules.files import RULES


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules_build", RULES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_rule_files_are_what_the_templates_give(build: ModuleType) -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in RULES.glob("*.yml")}
    assert build.render() == committed, "run `python rules/build.py` and commit the result"


def test_check_succeeds_where_nothing_changed() -> None:
    done = subprocess.run([sys.executable, RULES / "build.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_shows_the_difference_and_changes_nothing(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in build.render().items():
        (tmp_path / name).write_text(text.replace("> bool 3.5)", "> bool 2)"), encoding="utf-8")
    edited = (tmp_path / "drift.yml").read_text(encoding="utf-8")
    monkeypatch.setattr(build, "RULES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    assert build.main() == 1
    assert "-            (kpi:version:z > bool 2)\n" in capsys.readouterr().out
    assert (tmp_path / "drift.yml").read_text(encoding="utf-8") == edited


def test_without_check_it_writes_the_files(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "RULES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert build.main() == 0
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == build.render()
