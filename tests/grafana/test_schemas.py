"""The dashboards against the types that Grafana itself publishes, for each of its major versions.

Grafana's server comes as no package of Debian; its types do from npm, under the Apache license. They are
fetched and turned into JSON Schemas once, in about a minute. What they do not know is listed below, with the
reason why it may stay.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.grafana import model, npm

VERSIONS = ("10.4.19", "11.6.4", "12.3.0", "13.2.3")
PANELS = ("stat", "timeseries", "heatmap", "table")
"""The types of panel that have a schema; `alertlist` has none in any version."""
GENERATOR = "ts-json-schema-generator@2.4.0"
KNOWN = {
    # Of the Prometheus data source's annotations, which reads them untyped.
    *(f"annotations.list: {field}" for field in ("expr", "step", "titleFormat")),
    # The SDK writes out what only some versions or some kinds of variable know; the others pass over it.
    *(
        f"templating.list: {field}"
        for field in ("allowCustomValue", "auto", "auto_count", "auto_min", "definition")
    ),
    "stat options: percentChangeColorMode",
    "heatmap options: selectionMode",
    "table options: footer",
    # Required by the type, and filled in by the table itself.
    "table custom: 'cellOptions' is a required property",
}

_FOLDER = model.ROOT / "build" / "grafana-schema"


def schemas(version: str) -> Path:
    """The folder with the JSON Schemas of a version."""
    folder = _FOLDER / version
    if not (folder / "dashboard-Dashboard.json").is_file():
        npm.install(folder, f"@grafana/schema@{version}", GENERATOR)
        script = folder / "schema_of_types.mjs"
        shutil.copy(Path(__file__).with_name(script.name), script)
        subprocess.run(["node", script.name, *PANELS], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module", params=VERSIONS)
def folder(request: pytest.FixtureRequest) -> Path:
    return schemas(request.param)


def faults(folder: Path, dashboard: Any) -> set[str]:
    """What the schemas of a version do not know, or miss, in a dashboard."""
    found = {f"{where}: {what}" for where, what in _against(folder, "dashboard-Dashboard", dashboard)}
    for panel in dashboard["panels"]:
        if panel["type"] in PANELS:
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            for part, name, value in (
                ("options", "Options", panel["options"]),
                ("custom", "FieldConfig", custom),
            ):
                errors = _against(folder, f"{panel['type']}-{name}", value)
                found |= {f"{panel['type']} {part}: {what}" for _, what in errors}
    return found


def _against(folder: Path, name: str, value: Any) -> Iterator[tuple[str, str]]:
    path = folder / f"{name}.json"
    if not path.is_file():
        assert name.endswith("-FieldConfig"), f"{folder.name} has no schema {name}"
        return
    for error in jsonschema.Draft7Validator(json.loads(path.read_text())).iter_errors(value):
        where = ".".join(str(part) for part in error.absolute_path if isinstance(part, str))
        unknown = re.findall(r"'([^']+)'(?=.* unexpected)", error.message)
        for what in unknown or [error.message]:
            yield where, what


@pytest.mark.soak
@pytest.mark.parametrize("uid", [dashboard["uid"] for dashboard in model.dashboards()])
def test_a_dashboard_is_what_the_types_of_this_version_say(folder: Path, uid: str) -> None:
    assert faults(folder, model.dashboard(uid)) <= KNOWN


@pytest.mark.soak
def test_a_misspelt_key_and_a_wrong_type_are_found(folder: Path) -> None:
    for change in ({"descripton": "x"}, {"title": 7}, {"options": {"grphMode": "area"}}):
        dashboard = model.dashboards()[0]
        next(panel for panel in dashboard["panels"] if panel["type"] == "stat").update(change)
        assert faults(folder, dashboard) - KNOWN
