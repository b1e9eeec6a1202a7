"""Tables as a person sees them: one row per thing, exactly the listed columns.

What Grafana makes of the answers is in `tables`; the soak test holds that against Grafana's own transformers,
which npm has under the Apache license (its server comes as no package). They are installed once.
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.grafana import live, model, npm, tables
from tests.grafana.model import Json
from tests.grafana.tables import Frame
from tests.grafana.test_schemas import VERSIONS

SELECTIONS = {
    "all personas": {"window": "1h", "journey": ".*", "persona": ".*"},
    "one persona": {"window": "7d", "journey": ".*", "persona": "concierge"},
}
IDENTITIES = {
    "Drifting personas": ("persona", "config_version", "journey", "kpi"),
    "Active config versions": ("persona",),
    "Versions": ("persona", "journey", "config_version"),
}
"""What a row of each table stands for."""

TABLES = {panel["title"]: panel for _, panel in model.panels() if panel["type"] == "table"}
each_table = pytest.mark.parametrize("title", TABLES)
each_selection = pytest.mark.parametrize("values", SELECTIONS.values(), ids=SELECTIONS)

_JSDOM = "jsdom@26.1.0"
_FOLDER = model.ROOT / "build" / "grafana-data"


def test_every_table_says_what_a_row_stands_for() -> None:
    assert TABLES.keys() == IDENTITIES.keys()


@each_table
@each_selection
def test_each_thing_has_one_row_and_every_listed_column(
    prometheus: live.Prometheus, title: str, values: dict[str, str]
) -> None:
    panel = TABLES[title]
    shown = tables.rows(panel, tables.answers(prometheus.url, panel, values, prometheus.moment()))
    things = Counter(tuple(row.get(name) for name in IDENTITIES[title]) for row in shown)
    assert things
    assert {thing: count for thing, count in things.items() if count > 1} == {}
    assert {name for row in shown for name in row} == set(tables.columns(panel))


def test_a_label_that_is_no_column_and_rows_that_do_not_join_are_found() -> None:
    panel = TABLES["Active config versions"]
    labels = {"persona": "concierge", "config_version": "2"}
    named = {"A": [_sample(labels)], "B": [_sample(labels | {"__name__": "config_clients"})]}
    with pytest.raises(AssertionError, match="__name__"):
        tables.rows(panel, named)
    other = {"A": [_sample(labels | {"__name__": "one"})], "B": [_sample(labels | {"__name__": "other"})]}
    assert len(tables.merged([tables.frame(ref_id, found) for ref_id, found in other.items()]).rows) == 2


@pytest.fixture(scope="module", params=VERSIONS)
def transformers(request: pytest.FixtureRequest) -> Path:
    """The folder in which a version of Grafana's own transformers is installed."""
    version: str = request.param
    folder = _FOLDER / version
    package = folder / "node_modules" / "@grafana" / "data" / "package.json"
    if not package.is_file() or not (folder / "node_modules" / "jsdom").is_dir():
        npm.install(folder, f"@grafana/data@{version}", _JSDOM)
    described = json.loads(package.read_text())
    assert (described["version"], described["license"]) == (version, "Apache-2.0")
    return folder


@pytest.mark.soak
@each_table
def test_grafanas_own_transformers_give_these_rows_and_columns(
    prometheus: live.Prometheus, transformers: Path, title: str
) -> None:
    """From real answers, with each query in turn also answered by nothing, in every form that may take."""
    panel = TABLES[title]
    merge, organize = panel["transformations"]
    given: list[list[Frame]] = []
    for values in SELECTIONS.values():
        answers = tables.answers(prometheus.url, panel, values, prometheus.moment())
        assert all(answers.values())
        whole = [tables.frame(ref_id, samples) for ref_id, samples in answers.items()]
        given.append(whole)
        for n, (ref_id, _) in enumerate(answers.items()):
            empty: tuple[list[Frame], ...] = ([], [Frame(ref_id, [], [])], [tables.frame(ref_id, [])])
            given += [[*whole[:n], *nothing, *whole[n + 1 :]] for nothing in empty]
    theirs = _transformed(transformers, [(frames, [merge, organize]) for frames in given])
    for n, (frames, (their,)) in enumerate(zip(given, theirs, strict=True)):
        mine = tables.merged(frames).rows
        names = [field["name"] for field in their]
        listed = [name for name in tables.columns(panel) if any(name in each.fields for each in frames)]
        assert names == listed, f"case {n}"
        columns = [field["values"] for field in their]
        assert list(zip(*columns, strict=True)) == [tuple(row.get(name) for name in names) for row in mine], (
            f"case {n}"
        )
        things = Counter(tuple(row.get(name) for name in IDENTITIES[title]) for row in mine)
        assert max(things.values()) == 1, f"case {n}"


def _transformed(folder: Path, given: Sequence[tuple[list[Frame], list[Json]]]) -> list[list[Any]]:
    """The frames that the installed transformers make of each case: a list of fields per frame."""
    data = [
        {
            "transformations": transformations,
            "frames": [
                {
                    "refId": frame.ref_id,
                    "fields": [
                        {"name": name, "type": _type(name), "values": [row[name] for row in frame.rows]}
                        for name in frame.fields
                    ],
                }
                for frame in frames
            ],
        }
        for frames, transformations in given
    ]
    script = folder / "transform.cjs"
    shutil.copy(Path(__file__).with_name(script.name), script)
    run = subprocess.run(
        ["node", script.name], input=json.dumps(data), cwd=folder, check=True, capture_output=True, text=True
    )
    results: list[list[Any]] = json.loads(run.stdout)
    return results


def _type(field: str) -> str:
    return "time" if field == "Time" else "number" if field.startswith("Value #") else "string"


def _sample(labels: dict[str, str]) -> Json:
    return {"metric": labels, "value": [1.0, "1"]}
