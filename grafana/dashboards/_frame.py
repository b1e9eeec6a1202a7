"""What all dashboards have in common: time, annotations, and that nobody edits them in the browser."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, DashboardCursorSync, Panel, VariableModel

from grafana import variables


def build(
    uid: str,
    title: str,
    description: str,
    *,
    links: Sequence[DashboardLink],
    variable_list: Sequence[Builder[VariableModel]],
    panels: Sequence[Panel],
) -> Dashboard:
    """A read-only dashboard in UTC over the last 6 hours, refreshed every 30 s."""
    dashboard = (
        DashboardBuilder(title)
        .uid(uid)
        .description(description)
        .tags(["driftback"])
        .timezone("utc")
        .time("now-6h", "now")
        .refresh("30s")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .links(list(links))
        .variables(list(variable_list))
        .annotations([variables.config_changes(), variables.firing_alerts()])
        .build()
    )
    dashboard.panels = list(panels)
    return dashboard
