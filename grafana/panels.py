"""Panel defaults: what every panel of a kind has in common, so that a dashboard states only what differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    TableSortByFieldState,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    GridPos,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana import variables

NO_MESSAGES = "no messages in this window"


@dataclass(frozen=True)
class Column:
    """Column of a table: the field, its heading, and what the cell shows or opens.

    `states` maps values to text and colour, `steps` are limits from which on the value has a colour.
    """

    field: str
    title: str
    unit: str | None = None
    decimals: int | None = None
    no_value: str | None = None
    states: dict[str, tuple[str, str]] | None = None
    steps: tuple[tuple[float, str], ...] = ()
    link: tuple[str, str] | None = None
    new_tab: bool = False


def persona_column() -> Column:
    """The persona, which opens its versions side by side."""
    link = ("Compare the versions of this persona", variables.persona_link("persona"))
    return Column("persona", "Persona", link=link)


def version_column(title: str) -> Column:
    """The config version, which opens the rollback page that leaves it."""
    link = ("Open the rollback page for this version", variables.rollback_link("persona", "config_version"))
    return Column("config_version", title, link=link, new_tab=True)


def kpi_stat(
    panel_id: int,
    title: str,
    description: str,
    *,
    value: str,
    state: str,
    unit: str,
    decimals: int,
    states: dict[str, tuple[str, str]],
) -> Builder[Panel]:
    """A KPI and, below it, its state in words and colour.

    The number itself has no colour: a fixed limit would paint ordinary variation, and
    the state is what was judged. `states` maps the values of the state query to text and colour.
    """
    return (
        stat.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(_query(value, "A").instant())
        .with_target(_query(state, "B").instant())
        .unit(unit)
        .decimals(decimals)
        .no_value(NO_MESSAGES)
        .thresholds(_thresholds())
        .override_by_query(
            "B",
            [
                DynamicConfigValue(id_val="unit", value="none"),
                DynamicConfigValue(id_val="noValue", value="state unknown: no KPI recorded"),
                DynamicConfigValue(id_val="mappings", value=[_value_map(states)]),
            ],
        )
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .text_mode(common.BigValueTextMode.VALUE)
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
        .with_target(_query(expr, "A").legend_format(legend).range())
        .unit(unit)
        .min(0)
        .no_value(no_value)
        .thresholds(_thresholds(*steps))
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
        .fill_opacity(0)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(False)
    )
    return panel if decimals is None else panel.decimals(decimals)


def count_stat(
    panel_id: int,
    title: str,
    description: str,
    *,
    expr: str,
    legend: str,
    unit: str,
    decimals: int,
    steps: tuple[tuple[float, str], ...],
    no_value: str,
) -> Builder[Panel]:
    """One number per group, coloured from the given limits on."""
    return (
        stat.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .with_target(_query(expr, "A").legend_format(legend).instant())
        .unit(unit)
        .decimals(decimals)
        .no_value(no_value)
        .thresholds(_thresholds(*steps))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
    )


def facts_table(
    panel_id: int,
    title: str,
    description: str,
    *,
    exprs: Sequence[str],
    columns: Sequence[Column],
    sort_by: str,
    descending: bool = False,
    no_value: str,
) -> Builder[Panel]:
    """Several instant queries as one table; rows with equal labels become one row.

    Query n (from A) gives the field `Value #<letter>`. `sort_by` is the title of a column.
    """
    refs = [chr(ord("A") + n) for n in range(len(exprs))]
    shown = {column.field for column in columns}
    hidden = {
        field: True for field in ["Time", "Value", *(f"Value #{ref}" for ref in refs)] if field not in shown
    }
    panel = (
        table.Panel()
        .id(panel_id)
        .title(title)
        .description(description)
        .datasource(variables.DATASOURCE)
        .unit("none")
        .no_value(no_value)
        .thresholds(_thresholds())
        .sort_by([TableSortByFieldState().display_name(sort_by).desc(descending)])
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": hidden,
                    "indexByName": {column.field: n for n, column in enumerate(columns)},
                    "renameByName": {},
                },
            )
        )
    )
    for ref, expr in zip(refs, exprs, strict=True):
        panel = panel.with_target(_query(expr, ref).instant().format(PromQueryFormat.TABLE))
    for column in columns:
        panel = panel.override_by_name(column.field, _column_properties(column))
    return panel


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


def _query(expr: str, ref_id: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).ref_id(ref_id)


def _thresholds(*steps: tuple[float, str]) -> ThresholdsConfig:
    """Colours from these values on, none below: Grafana's default paints even a missing value green."""
    levels = [Threshold(value=None, color="text"), *(Threshold(value, color) for value, color in steps)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(levels)


def _value_map(states: dict[str, tuple[str, str]]) -> ValueMap:
    return ValueMap(
        options={
            value: ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(states.items())
        }
    )


def _column_properties(column: Column) -> list[DynamicConfigValue]:
    properties: dict[str, object] = {"displayName": column.title}
    if column.unit is not None:
        properties["unit"] = column.unit
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.no_value is not None:
        properties["noValue"] = column.no_value
    if column.states is not None:
        properties["mappings"] = [_value_map(column.states)]
    if column.steps:
        properties["thresholds"] = _thresholds(*column.steps).build()
    if column.states is not None or column.steps:
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.link is not None:
        title, url = column.link
        properties["links"] = [{"title": title, "url": url, "targetBlank": column.new_tab}]
    return [DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]
