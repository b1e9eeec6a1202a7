"""Tables as a person sees them: one row per thing, exactly the listed columns.

What Grafana makes of the answers is in `tables`.
"""

from collections import Counter

import pytest

from tests.grafana import live, model, tables
from tests.grafana.model import Json

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


def test_every_table_says_what_a_row_stands_for() -> None:
    assert TABLES.keys() == IDENTITIES.keys()


@each_table
@each_selection
def test_each_thing_has_one_row_and_every_listed_column(
    prometheus: live.Prometheus, title: str, values: dict[str, str]
) -> None:
    panel = TABLES[title]
    shown = tables.rows(panel, tables.answers(prometheus, panel, values))
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


def _sample(labels: dict[str, str]) -> Json:
    return {"metric": labels, "value": [1.0, "1"]}
