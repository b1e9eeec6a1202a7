"""The committed JSON is what the code writes, and nothing in it is lost on the way through the SDK."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import build
from tests.grafana import model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build.FILES.write(tmp_path)
    return tmp_path


def test_committed_dashboards_are_what_the_code_writes() -> None:
    assert build.FILES.differences(build.FILES.folder) == []


def test_check_passes_on_freshly_written_dashboards(folder: Path) -> None:
    assert build.FILES.main(["--check", "--folder", str(folder)]) == 0


def test_check_names_an_edited_dashboard_and_shows_the_difference(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "driftback-persona.json"
    path.write_text(path.read_text().replace("Persona and versions", "Edited by hand"))
    assert build.FILES.main(["--check", "--folder", str(folder)]) == 1
    errors = capsys.readouterr().err
    assert "driftback-persona.json: differs" in errors
    assert "Edited by hand" in errors


def test_check_names_a_missing_and_a_left_over_dashboard(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(folder / "driftback-persona.json", folder / "old.json")
    assert build.FILES.main(["--check", "--folder", str(folder)]) == 1
    errors = capsys.readouterr().err
    assert "driftback-persona.json: missing" in errors
    assert "old.json: nothing writes this file" in errors


def test_writing_removes_a_left_over_dashboard(folder: Path) -> None:
    (folder / "old.json").write_text("{}")
    assert build.FILES.main(["--folder", str(folder)]) == 0
    assert build.FILES.differences(folder) == []


@pytest.mark.parametrize("uid", [dashboard["uid"] for dashboard in model.dashboards()])
def test_nothing_is_lost_when_the_sdk_reads_a_dashboard_back(uid: str) -> None:
    assert _lost(model.dashboard(uid), _round_trip(model.dashboard(uid))) == []


def test_the_round_trip_loses_a_misspelt_key() -> None:
    misspelt = model.dashboard("driftback-persona")
    misspelt["panels"][0]["descripton"] = "typo"
    assert _lost(misspelt, _round_trip(misspelt)) == [".panels[0].descripton"]


def _round_trip(dashboard: dict[str, Any]) -> Any:
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def _lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Paths in `before` that are missing or different in `after`; additions do not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        missing = [f"{path}.{key}" for key in before if key not in after]
        return missing + [
            lost for key in before if key in after for lost in _lost(before[key], after[key], f"{path}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [lost for n, (a, b) in pairs for lost in _lost(a, b, f"{path}[{n}]")]
    return [] if before == after else [path]
