"""Tables: several instant queries joined into rows, with columns in words, colours and links."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, DynamicConfigValue, Panel
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana import panels, variables


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

    Query n (from A) gives the field `Value #<letter>`. `sort_by` is the title of a column. A query must keep
    no label that is not a column, so none is a bare selector: Grafana makes a column of each, of a series'
    name too, and joins only rows that agree in all columns they share.
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
        .thresholds(panels.thresholds())
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
        panel = panel.with_target(panels.query(expr, ref).instant().format(PromQueryFormat.TABLE))
    for column in columns:
        panel = panel.override_by_name(column.field, _column_properties(column))
    return panel


def _column_properties(column: Column) -> list[DynamicConfigValue]:
    properties: dict[str, object] = {"displayName": column.title}
    if column.unit is not None:
        properties["unit"] = column.unit
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.no_value is not None:
        properties["noValue"] = column.no_value
    if column.states is not None:
        properties["mappings"] = [panels.value_map(column.states)]
    if column.steps:
        properties["thresholds"] = panels.thresholds(*column.steps).build()
    if column.states is not None or column.steps:
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.link is not None:
        title, url = column.link
        properties["links"] = [{"title": title, "url": url, "targetBlank": column.new_tab}]
    return [DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]
