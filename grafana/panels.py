"""Panel defaults: what every panel of a kind has in common, so that a dashboard states only what differs."""

from collections.abc import Sequence
from typing import Literal

from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    GridPos,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana import variables

NO_MESSAGES = "no messages in this window"

Shape = Literal["lines", "steps", "stacked"]


def kpi_stat(
    panel_id: int,
    title: str,
    description: str,
    *,
    value: str,
    state: str,
    previous: str,
    unit: str,
    decimals: int,
    states: dict[str, tuple[str, str]],
) -> Builder[Panel]:
    """A KPI, its state in words and colour, and the KPI in the equally long window before.

    The number itself has no colour: a fixed limit would paint ordinary variation, and
    the state is what was judged. `states` maps the values of the state query to text and colour.
    """
    return (
        stat.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(query(value, "A").legend_format("last $window").instant())
        .with_target(query(state, "B").legend_format("state").instant())
        .with_target(query(previous, "C").legend_format("the $window before").instant())
        .unit(unit)
        .decimals(decimals)
        .no_value(NO_MESSAGES)
        .thresholds(thresholds())
        .override_by_query(
            "B",
            [
                DynamicConfigValue(id_val="unit", value="none"),
                DynamicConfigValue(id_val="noValue", value="state unknown: no KPI recorded"),
                DynamicConfigValue(id_val="mappings", value=[value_map(states)]),
            ],
        )
        .override_by_query("C", [DynamicConfigValue(id_val="noValue", value="no messages")])
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .orientation(common.VizOrientation.HORIZONTAL)
    )


def trend(
    panel_id: int,
    title: str,
    description: str,
    *,
    expr: str,
    legend: str,
    unit: str,
    decimals: int | None = None,
    no_value: str = NO_MESSAGES,
    limit: float | None = None,
    shape: Shape = "lines",
) -> Builder[Panel]:
    """A number over time, one line per group, with the latest and the highest value in the legend.

    A `limit` is drawn as a dashed red line. The axis starts at 0; gaps stay gaps: no data is not a rate of 0.
    """
    steps = () if limit is None else ((limit, "red"),)
    style = common.GraphThresholdsStyleMode.OFF if limit is None else common.GraphThresholdsStyleMode.DASHED
    panel = (
        timeseries.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(query(expr, "A").legend_format(legend).range())
        .unit(unit)
        .min(0)
        .no_value(no_value)
        .thresholds(thresholds(*steps))
        .thresholds_style(GraphThresholdsStyleConfig().mode(style))
        .legend(
            VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .line_width(2)
        .fill_opacity(60 if shape == "stacked" else 0)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(False)
    )
    if shape == "stacked":
        panel = panel.stacking(StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if shape == "steps":
        panel = panel.line_interpolation(common.LineInterpolation.STEP_AFTER)
    return panel if decimals is None else panel.decimals(decimals)


def heat_map(panel_id: int, title: str, description: str, *, expr: str, unit: str) -> Builder[Panel]:
    """Messages per bucket over time; `expr` gives cumulative buckets with the label `le`."""
    return (
        heatmap.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(query(expr, "A").legend_format("{{le}}").range().format(PromQueryFormat.HEATMAP))
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .scale(HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
            .fill("blue")
            .reverse(False)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO))
        .show_value(common.VisibilityMode.NEVER)
        .tooltip(heatmap.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).show_color_scale(True))
        .show_legend()
        .unit("short")
        .no_value(NO_MESSAGES)
        .thresholds(thresholds())
    )


def count_stat(
    panel_id: int,
    title: str,
    description: str,
    *,
    expr: str,
    legend: str,
    unit: str,
    decimals: int,
    steps: tuple[tuple[float, str], ...] = (),
    states: dict[str, tuple[str, str]] | None = None,
    no_value: str,
) -> Builder[Panel]:
    """One number per group, coloured from the given limits on, or the words and colours of `states`."""
    panel = (
        stat.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(query(expr, "A").legend_format(legend).instant())
        .unit(unit)
        .decimals(decimals)
        .no_value(no_value)
        .thresholds(thresholds(*steps))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
    )
    return panel if states is None else panel.mappings([value_map(states)])


def alert_list(panel_id: int, title: str, description: str) -> Builder[Panel]:
    """Pending and firing alerts of the rules, with their links; `Watchdog` (severity none) is left out."""
    return (
        dashboard.Panel()
        .type("alertlist")
        .id(panel_id)
        .title(title)
        .description(description)
        .options(
            {
                "viewMode": "list",
                "groupMode": "default",
                "groupBy": [],
                "maxItems": 20,
                "sortOrder": 3,
                "dashboardAlerts": False,
                "alertName": "",
                "alertInstanceLabelFilter": '{severity=~"page|ticket"}',
                "datasource": variables.PROMETHEUS_NAME,
                "folder": None,
                "showInstances": True,
                "stateFilter": {
                    "firing": True,
                    "pending": True,
                    "recovering": True,
                    "error": True,
                    "noData": False,
                    "normal": False,
                },
            }
        )
    )


def place(rows: Sequence[tuple[int, Sequence[tuple[int, Builder[Panel]]]]]) -> list[Panel]:
    """Panels on the grid of 24 columns, row by row: (height of the row, [(width, panel), …])."""
    placed = []
    top = 0
    for height, row in rows:
        left = 0
        for width, builder in row:
            panel = builder.build()
            panel.grid_pos = GridPos(x=left, y=top, w=width, h=height)
            placed.append(panel)
            left += width
        top += height
    return placed


def query(expr: str, ref_id: str) -> prometheus.Dataquery:
    """A query by the name that overrides and columns know it by."""
    return prometheus.Dataquery().expr(expr).ref_id(ref_id)


def thresholds(*steps: tuple[float, str]) -> ThresholdsConfig:
    """Colours from these values on, none below: Grafana's default paints even a missing value green."""
    levels = [Threshold(value=None, color="text"), *(Threshold(value, color) for value, color in steps)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(levels)


def value_map(states: dict[str, tuple[str, str]]) -> ValueMap:
    """Value → (text, colour)."""
    return ValueMap(
        options={
            value: ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(states.items())
        }
    )
