"""Draws a committed dashboard from real query results, for pictures where no Grafana can run.

Queries, titles, units, words, colours, columns and layout come from the dashboard's JSON; the charts are
Plotly's. It shows what a person will read, not Grafana's exact look, and every page says so.
"""

import html
import re
import time
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
import plotly.offline  # type: ignore[import-untyped]
import requests

from tests.grafana import model, tables
from tests.grafana.model import Json

NOTICE = "Preview rendered without Grafana, from the committed dashboard JSON and live query results"

_ROW_PIXELS = 38
_COLORS = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "blue": "#5794f2", "text": "#d8d9da"}
_STYLE = """
body { background: #111217; color: #d8d9da; font: 13px "DejaVu Sans", sans-serif; margin: 8px; width: 1584px }
h1 { font-size: 20px; margin: 4px 8px } .notice { color: #ff9830; margin: 0 8px 8px }
.grid { display: grid; grid-template-columns: repeat(24, 66px); grid-auto-rows: 38px }
.panel { background: #181b1f; border: 1px solid #2c3235; margin: 4px; overflow: hidden; padding: 6px 8px }
.panel h2 { font-size: 13px; margin: 0 0 4px } .none { color: #8e8e8e; padding: 20px; text-align: center }
.stat { display: flex; align-items: baseline; gap: 10px; margin: 5px 0 } .stat b { font-size: 21px }
.stat span { color: #8e8e8e } table { border-collapse: collapse; width: 100% }
th { color: #6e9fff; text-align: left } th, td { border-bottom: 1px solid #2c3235; padding: 5px 6px }
a { color: #6e9fff } .alert { border-left: 3px solid #f2495c; margin: 6px 0; padding-left: 8px }
"""


class Preview:
    """A dashboard at one moment, with the variables' values and a time range in seconds."""

    def __init__(self, prometheus: str, dashboard: Json, values: Mapping[str, str], seconds: float) -> None:
        self._prometheus = prometheus
        self._dashboard = dashboard
        self._values = values
        self._end = time.time()
        self._seconds = seconds

    def html(self) -> str:
        """The whole page, with everything it needs."""
        panels = "".join(self._panel(panel) for panel in self._dashboard["panels"])
        chosen = ", ".join(f"{name} {value}" for name, value in self._values.items() if value != ".*")
        return (
            f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>"
            f"<script>{plotly.offline.get_plotlyjs()}</script>"
            f"<h1>{html.escape(self._dashboard['title'])}</h1>"
            f"<div class=notice>{NOTICE}. {html.escape(chosen)}, last {self._seconds / 60:.0f} minutes.</div>"
            f"<div class=grid>{panels}</div>"
        )

    def _panel(self, panel: Json) -> str:
        place = panel["gridPos"]
        draw = {
            "stat": self._stat,
            "timeseries": self._lines,
            "heatmap": self._heat_map,
            "table": self._table,
            "alertlist": self._alerts,
        }[panel["type"]]
        column, row = (f"{place[at] + 1} / span {place[size]}" for at, size in (("x", "w"), ("y", "h")))
        style = f"grid-column: {column}; grid-row: {row}"
        body = draw(panel) or f"<div class=none>{html.escape(_defaults(panel)['noValue'])}</div>"
        return f'<div class=panel style="{style}"><h2>{html.escape(panel["title"])}</h2>{body}</div>'

    def _stat(self, panel: Json) -> str:
        shown = []
        for target in panel["targets"]:
            settings = _defaults(panel) | _override(panel, target["refId"])
            samples = self._ask("query", target["expr"], time=self._end)
            for sample in samples:
                text, color = _worded(float(sample["value"][1]), settings)
                shown.append((text, color, self._legend(target, sample["metric"])))
            if not samples:
                shown.append((settings["noValue"], "text", self._legend(target, {})))
        return "".join(
            f'<div class=stat><b style="color:{_COLORS[color]}">{html.escape(text)}</b>'
            f"<span>{html.escape(name)}</span></div>"
            for text, color, name in shown
        )

    def _lines(self, panel: Json) -> str:
        stacked = _defaults(panel)["custom"].get("stacking", {}).get("mode") == "normal"
        steps = _defaults(panel)["custom"].get("lineInterpolation") == "stepAfter"
        figure = go.Figure()
        target = panel["targets"][0]
        for series in self._range(target["expr"]):
            figure.add_scatter(
                x=_moments(series["values"]),
                y=[float(value) for _, value in series["values"]],
                name=self._legend(target, series["metric"]),
                mode="lines",
                stackgroup="one" if stacked else None,
                line={"width": 2, "shape": "hv" if steps else "linear"},
            )
        percent = _defaults(panel)["unit"] == "percentunit"
        figure.update_yaxes(rangemode="tozero", tickformat=".1%" if percent else None)
        return _chart(panel, figure) if figure.data else ""

    def _heat_map(self, panel: Json) -> str:
        found = self._range(panel["targets"][0]["expr"])
        bounds = sorted(found, key=lambda series: float(series["metric"]["le"].replace("+Inf", "inf")))
        below: dict[float, float] = {}
        rows = []
        for series in bounds:
            counts = {moment: float(value) for moment, value in series["values"]}
            rows.append([counts[moment] - below.get(moment, 0) or None for moment in counts])
            below = counts
        figure = go.Figure()
        if bounds:
            labels = [series["metric"]["le"] for series in bounds]
            moments = _moments(bounds[0]["values"])
            figure.add_heatmap(x=moments, y=labels, z=rows, colorscale="Blues_r")
        figure.update_yaxes(type="category", title="seconds")
        return _chart(panel, figure) if bounds else ""

    def _table(self, panel: Json) -> str:
        answers = tables.answers(self._prometheus, panel, self._values, self._end)
        rows = tables.rows(panel, answers)
        columns = {o["matcher"]["options"]: _properties(o) for o in panel["fieldConfig"]["overrides"]}
        head = "".join(f"<th>{html.escape(column['displayName'])}</th>" for column in columns.values())
        body = "".join(
            f"<tr>{''.join(_cell(row.get(field), column) for field, column in columns.items())}</tr>"
            for row in rows
        )
        return f"<table><tr>{head}</tr>{body}</table>" if rows else ""

    def _alerts(self, _panel: Json) -> str:
        answer = requests.get(f"{self._prometheus}/api/v1/alerts", timeout=30).json()
        return "".join(
            f"<div class=alert><b>{html.escape(alert['labels']['alertname'])}</b> {alert['state']}, "
            f"{alert['labels']['severity']}<br>{html.escape(alert['annotations']['summary'])}<br>"
            + " · ".join(f"<a>{name}</a>" for name in sorted(alert["annotations"]) if name.endswith("_url"))
            + "</div>"
            for alert in answer["data"]["alerts"]
            if alert["labels"]["severity"] in ("page", "ticket")
        ) or ("<div class=none>nothing fires</div>")

    def _range(self, expr: str) -> list[Json]:
        step = max(5, self._seconds // 120)
        return self._ask("query_range", expr, start=self._end - self._seconds, end=self._end, step=step)

    def _ask(self, kind: str, expr: str, **when: float) -> list[Json]:
        query = model.interpolate(expr, self._values)
        answer = requests.post(
            f"{self._prometheus}/api/v1/{kind}", data={"query": query, **when}, timeout=30
        ).json()
        assert answer["status"] == "success", answer
        found: list[Json] = answer["data"]["result"]
        return found

    def _legend(self, target: Json, labels: Mapping[str, str]) -> str:
        text = target.get("legendFormat", "").replace("$window", self._values["window"])
        return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), text)


def _defaults(panel: Json) -> Json:
    found: Json = panel.get("fieldConfig", {}).get("defaults", {})
    return found


def _properties(override: Json) -> Json:
    return {item["id"]: item["value"] for item in override["properties"]}


def _override(panel: Json, ref_id: str) -> Json:
    matching = [o for o in panel["fieldConfig"]["overrides"] if o["matcher"]["options"] == ref_id]
    return {key: value for override in matching for key, value in _properties(override).items()}


def _worded(value: float, settings: Json) -> tuple[str, str]:
    """Text and colour of a value, as mappings, thresholds and unit say."""
    for mapping in settings.get("mappings", []):
        state = mapping["options"].get(f"{value:g}")
        if state:
            return state["text"], state["color"]
    steps = settings.get("thresholds", {}).get("steps", [])
    colors = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return _formatted(value, settings), colors[-1] if colors else "text"


def _formatted(value: float, settings: Json) -> str:
    decimals = settings.get("decimals", 1)
    unit = settings.get("unit")
    if unit == "percentunit":
        return f"{value * 100:.{decimals}f}%"
    if unit == "short" and value == int(value):
        return f"{value:.0f}"
    if unit == "dateTimeFromNow":
        return f"{(time.time() - value / 1000) / 60:.0f} minutes ago"
    return f"{value:.{decimals}f}" + {"ms": " ms", "s": " s"}.get(unit or "", "")


def _cell(value: Any, column: Json) -> str:
    text, color = column.get("noValue", ""), "text"
    if value is not None:
        text = value
        if {"unit", "decimals", "mappings"} & column.keys():
            text, color = _worded(float(value), column)
    shown = html.escape(text)
    return f'<td style="color:{_COLORS[color]}">' + (f"<a>{shown}</a>" if "links" in column else shown)


def _moments(values: list[Any]) -> list[str]:
    return [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) for moment, _ in values]


def _chart(panel: Json, figure: Any) -> str:
    place = panel["gridPos"]
    figure.update_layout(
        template="plotly_dark",
        paper_bgcolor="#181b1f",
        plot_bgcolor="#181b1f",
        width=place["w"] * 66 - 28,
        height=place["h"] * _ROW_PIXELS - 46,
        margin={"l": 50, "r": 10, "t": 6, "b": 6},
        showlegend=True,
        legend={"orientation": "h", "y": -0.15},
        font={"size": 11},
    )
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"staticPlot": True})
    return drawn
