"""Tables as Grafana makes them: a frame per query, then the transformations `merge` and `organize`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.grafana import live, model
from tests.grafana.model import Json

Row = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """What one query with the format "table" gives: the time, a field per label, `Value #<query>`."""

    ref_id: str
    fields: list[str]
    rows: list[Row]


def answers(prometheus: live.Prometheus, panel: Json, values: Mapping[str, str]) -> dict[str, list[Json]]:
    """What Prometheus answers to each of the panel's queries, all asked for the same moment."""
    moment = prometheus.moment()
    return {
        target["refId"]: prometheus.samples(model.interpolate(target["expr"], values), moment)
        for target in panel["targets"]
    }


def frame(ref_id: str, samples: Sequence[Json]) -> Frame:
    """Every label is a field, the series' name too; a sample that lacks it has an empty text there."""
    labels: list[str] = []
    for sample in samples:
        labels += [label for label in sorted(sample["metric"]) if label not in labels]
    value = f"Value #{ref_id}"
    rows = [
        {
            "Time": round(sample["value"][0] * 1000),
            **{label: sample["metric"].get(label, "") for label in labels},
            value: float(sample["value"][1]),
        }
        for sample in samples
    ]
    return Frame(ref_id, ["Time", *labels, value], rows)


def rows(panel: Json, answers: Mapping[str, Sequence[Json]]) -> list[Row]:
    """The rows that a person sees, of the answers by query; fails where one has a field that is no column."""
    merge, organize = panel["transformations"]
    assert (merge["id"], organize["id"]) == ("merge", "organize")
    whole = merged([frame(ref_id, samples) for ref_id, samples in answers.items()])
    shown = [name for name in whole.fields if not organize["options"]["excludeByName"].get(name)]
    unlisted = set(shown) - set(columns(panel))
    assert not unlisted, f"{panel['title']}: columns nobody asked for: {sorted(unlisted)}"
    visible = [{name: row[name] for name in shown if name in row} for row in whole.rows]
    (order,) = panel["options"]["sortBy"]
    (field,) = [name for name in columns(panel) if _title(panel, name) == order["displayName"]]
    return sorted(visible, key=lambda row: _rank(row.get(field)), reverse=order["desc"])


def columns(panel: Json) -> list[str]:
    """The fields that the panel lists, in their order."""
    return [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]]


def merged(frames: Sequence[Frame]) -> Frame:
    """Rows that agree in every field they share become one; the others stay apart.

    Only rows with the same values in the fields that all frames have are compared.
    """
    fields = list(dict.fromkeys(name for each in frames for name in each.fields))
    key = [name for name in frames[-1].fields if all(name in each.fields for each in frames)]
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    places: list[tuple[list[Row], int]] = []
    for each in frames:
        for row in each.rows:
            alike = by_key.setdefault(tuple(row[name] for name in key), [])
            fitting = [n for n, other in enumerate(alike) if _agree(other, row)]
            for n in fitting:
                alike[n] = alike[n] | row
            if not fitting:
                places.append((alike, len(alike)))
                alike.append(row)
    return Frame("", fields, [alike[n] for alike, n in places])


def _agree(one: Row, other: Row) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _title(panel: Json, field: str) -> str:
    (override,) = [o for o in panel["fieldConfig"]["overrides"] if o["matcher"]["options"] == field]
    (title,) = [item["value"] for item in override["properties"] if item["id"] == "displayName"]
    return str(title)


def _rank(value: float | str | None) -> list[tuple[bool, float, str]]:
    """Sorts numbers inside of texts as numbers, and what is missing before all else."""
    if value is None:
        return []
    parts = [str(value)] if isinstance(value, float) else re.findall(r"\d+|\D+", value)
    numeric = [isinstance(value, float) or part.isdecimal() for part in parts]
    return [
        (not number, float(part) if number else 0, "" if number else part.casefold())
        for number, part in zip(numeric, parts, strict=True)
    ]
