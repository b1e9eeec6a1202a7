"""Identity, layout and dressing of every panel."""

import json
import re
from itertools import combinations

import pytest

from tests.grafana import model
from tests.grafana.model import Json
from tests.grafana.pictures import LIMIT_BYTES

PANELS = model.panels()
DATA_PANELS = [(name, panel) for name, panel in PANELS if panel["type"] != "alertlist"]
"""The alert list has no field options: no unit, thresholds, no-data text or legend."""


def _cases(panels: list[tuple[str, Json]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("panel", [panel for _, panel in panels], ids=[name for name, _ in panels])


def test_dashboards_have_their_public_uids() -> None:
    uids = [dashboard["uid"] for dashboard in model.dashboards()]
    assert uids == ["driftback-conversation", "driftback-persona", "driftback-pipeline"]


@pytest.mark.parametrize("dashboard", model.dashboards(), ids=lambda dashboard: str(dashboard["uid"]))
class TestDashboard:
    def test_panel_ids_are_unique(self, dashboard: Json) -> None:
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)

    def test_panels_lie_on_the_grid_and_do_not_overlap(self, dashboard: Json) -> None:
        cells = [(panel["title"], _cells(panel["gridPos"])) for panel in dashboard["panels"]]
        assert all(x < 24 for _, covered in cells for x, _ in covered)
        overlaps = [(a, b) for (a, one), (b, other) in combinations(cells, 2) if one & other]
        assert overlaps == []

    def test_it_is_read_only_in_utc_and_described(self, dashboard: Json) -> None:
        assert dashboard["editable"] is False
        assert dashboard["timezone"] == "utc"
        assert dashboard["description"]
        assert dashboard["tags"] == ["driftback"]

    def test_every_variable_has_a_label_and_a_description(self, dashboard: Json) -> None:
        for variable in dashboard["templating"]["list"]:
            assert variable["label"], variable["name"]
            assert variable["description"], variable["name"]


def test_panels_that_alerts_name_keep_their_ids() -> None:
    titles = {panel["id"]: panel["title"] for panel in model.dashboard("driftback-persona")["panels"]}
    assert titles[1] == "Out-of-scope rate per version"
    assert titles[2] == "LLM error rate per version"
    assert titles[3] == "p95 latency per version"


@_cases(PANELS)
def test_panel_has_a_title_and_a_description(panel: Json) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")


@_cases(DATA_PANELS)
def test_panel_has_a_unit_and_a_no_data_text(panel: Json) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]


@_cases(DATA_PANELS)
def test_panel_never_paints_missing_data_green(panel: Json) -> None:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert steps[0]["color"] != "green"


@_cases([(name, panel) for name, panel in PANELS if panel["type"] == "timeseries"])
def test_time_series_has_a_legend_from_labels(panel: Json) -> None:
    assert panel["options"]["legend"]["showLegend"] is True
    for target in panel["targets"]:
        assert "{{" in target["legendFormat"]


@_cases(
    [
        (name, panel)
        for name, panel in PANELS
        if len(panel.get("targets", [])) == 3 and panel["type"] == "stat"
    ]
)
def test_stat_says_its_state_in_words_for_every_value_of_the_state_query(panel: Json) -> None:
    properties = {item["id"]: item["value"] for item in panel["fieldConfig"]["overrides"][0]["properties"]}
    (mapping,) = properties["mappings"]
    states = {"-1", "0", "1", "2", "3"} | ({"4"} if panel["title"] == "Messages" else {"-2"})
    assert mapping["options"].keys() == states
    assert all(state["text"] and state["color"] for state in mapping["options"].values())
    assert [value for value, state in mapping["options"].items() if state["color"] == "green"] == ["0"]


@_cases([(name, panel) for name, panel in DATA_PANELS if "$__range" in json.dumps(panel["targets"])])
def test_a_count_over_the_time_range_is_no_alarm(panel: Json) -> None:
    """What happened hours ago may be over: red says that something is wrong now."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert "red" not in {step["color"] for step in steps}


def _cells(position: Json) -> set[tuple[int, int]]:
    columns = range(position["x"], position["x"] + position["w"])
    return {(x, y) for x in columns for y in range(position["y"], position["y"] + position["h"])}


def test_the_documentation_lists_every_panel() -> None:
    text = (model.ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    written = [
        f"| {panel['id']} | {panel['title']} | {panel['description']} |"
        for dashboard in model.dashboards()
        for panel in dashboard["panels"]
    ]
    assert listed == written


def test_the_walk_shows_every_picture_and_each_is_small() -> None:
    docs = model.ROOT / "docs"
    shown = set(re.findall(r"\]\((pictures/[\w-]+\.png)\)", (docs / "on-call-walk.md").read_text("utf-8")))
    found = {f"pictures/{path.name}" for path in (docs / "pictures").iterdir()}
    assert shown == found
    assert max((docs / name).stat().st_size for name in found) <= LIMIT_BYTES
