"""The rule files are what their templates give."""

import subprocess
import sys
from pathlib import Path

import pytest

from rules import build
from tests.rules.files import CHECKOUT, RULES


def test_committed_rule_files_are_what_the_templates_give() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in RULES.glob("*.yml")}
    assert build.render() == committed, "run `make rules` and commit the result"


@pytest.mark.parametrize("module", ["rules", "grafana", "docs", "deploy"])
def test_check_succeeds_where_nothing_changed(module: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", f"{module}.build", "--check"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_shows_the_difference_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in build.render().items():
        (tmp_path / name).write_text(text.replace("> bool 3.5)", "> bool 2)"), encoding="utf-8")
    edited = (tmp_path / "drift.yml").read_text(encoding="utf-8")
    assert build.FILES.main(["--check", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "drift.yml: differs" in said
    assert "  -            (kpi:version:z > bool 2)\n" in said
    assert said.endswith("Run `python -m rules.build` and commit the result.\n")
    assert (tmp_path / "drift.yml").read_text(encoding="utf-8") == edited


def test_check_cuts_a_long_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in build.render():
        (tmp_path / name).write_text("", encoding="utf-8")
    assert build.FILES.main(["--check", "--folder", str(tmp_path)]) == 1
    assert "more lines\n" in capsys.readouterr().err


def test_without_check_it_writes_the_files_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alerts.yml").write_text(build.render()["alerts.yml"], encoding="utf-8")
    assert build.FILES.main(["--folder", str(tmp_path)]) == 0
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == build.render()
    said = capsys.readouterr().out
    assert "drift.yml" in said
    assert "alerts.yml" not in said
