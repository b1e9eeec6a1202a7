"""Generated files: what is committed is current, and a file that is not is named."""

from pathlib import Path

import pytest

import deploy.build
import docs.build
from rules import build
from rules.generated import Generated


@pytest.mark.parametrize("files", [build.FILES, docs.build.FILES, deploy.build.FILES], ids=lambda f: f.module)
def test_what_is_committed_is_current(files: Generated) -> None:
    assert files.main(["--check"]) == 0


def test_check_shows_the_difference_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = build.render()
    (tmp_path / "drift.yml").write_text(texts["drift.yml"].replace("> bool 3.5)", "> bool 2)"))
    (tmp_path / "alerts.yml").touch()
    (tmp_path / "old.yml").touch()
    edited = (tmp_path / "drift.yml").read_text(encoding="utf-8")
    assert build.FILES.main(["--check", "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "drift.yml: differs" in printed
    assert "  -            (kpi:version:z > bool 2)\n" in printed
    assert "more lines\n" in printed, "of alerts.yml"
    assert "old.yml: nothing writes this file" in printed
    assert "recording.yml: missing" in printed
    assert printed.endswith("Run `python -m rules.build` and commit the result.\n")
    assert (tmp_path / "drift.yml").read_text(encoding="utf-8") == edited


def test_without_check_it_writes_the_files_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alerts.yml").write_text(build.render()["alerts.yml"], encoding="utf-8")
    (tmp_path / "old.yml").touch()
    assert build.FILES.main(["--folder", str(tmp_path)]) == 0
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == build.render()
    printed = capsys.readouterr().out
    assert "drift.yml" in printed
    assert "alerts.yml" not in printed
