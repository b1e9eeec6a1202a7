"""Persona and versions: the KPI of one persona, version by version. Alerts link here, by panel id."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels, queries, tables, variables
from grafana.dashboards import _frame
from grafana.tables import Column

_LEGEND = "{{journey}} version {{config_version}}"


def dashboard() -> Dashboard:
    """The dashboard `driftback-persona`.

    Panels 1, 2 and 3 are named by the `__panelId__` annotations of the rules: their ids are public.
    """
    return _frame.build(
        "driftback-persona",
        "Persona and versions",
        "The KPIs of one persona, version by version, and the way to the rollback page.",
        links=[
            variables.dashboard_link(
                "Conversation quality", variables.CONVERSATION_URL, "All journeys and personas"
            ),
            variables.dashboard_link("Pipeline", variables.PIPELINE_URL, "Can these numbers be trusted?"),
            variables.rollback_home_link(),
        ],
        variable_list=[
            variables.datasource(),
            variables.window(),
            variables.journey(),
            variables.one_persona(),
            variables.rollback_url(),
        ],
        panels=panels.place(
            [
                (9, [(8, _out_of_scope(1)), (8, _llm_errors(2)), (8, _latency(3))]),
                (7, [(24, _versions(4))]),
                (8, [(8, _traffic_share(5)), (8, _processes(6)), (8, _error_reasons(7))]),
                (10, [(24, _latency_distribution(8))]),
            ]
        ),
    )


def _out_of_scope(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Out-of-scope rate per version",
        "Share of the version's messages outside the persona's topics in the window that ends at "
        "each point. The line of a version that no longer serves ends as the window moves on.",
        expr=queries.kpi("out_of_scope_rate", "version"),
        legend=_LEGEND,
        unit="percentunit",
        decimals=2,
    )


def _llm_errors(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "LLM error rate per version",
        "Share of the version's messages that ended in an LLM error in the window that ends at each point.",
        expr=queries.kpi("llm_error_rate", "version"),
        legend=_LEGEND,
        unit="percentunit",
        decimals=2,
    )


def _latency(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "p95 latency per version",
        "95th percentile of the version's latency in the window that ends at each point. With fewer than 20 "
        "messages it is noise.",
        expr=queries.kpi("p95_latency_ms", "version"),
        legend=_LEGEND,
        unit="ms",
        decimals=0,
    )


def _versions(panel_id: int) -> Builder[Panel]:
    return tables.facts_table(
        panel_id,
        "Versions",
        "Every version with messages in the last 8 days, newest first, and its KPIs in the window. The "
        "version opens its rollback page. That page changes nothing if the version is no longer active.",
        exprs=[
            queries.version_kpi("messages_total"),
            queries.version_kpi("out_of_scope_rate"),
            queries.version_kpi("llm_error_rate"),
            queries.version_kpi("p95_latency_ms"),
            queries.version_active(),
            queries.version_clients(),
            queries.version_predecessor(),
        ],
        columns=[
            tables.version_column("Version"),
            Column("persona", "Persona"),
            Column("journey", "Journey"),
            Column("Value #E", "Active", states={"1": ("active", "green")}, no_value="no"),
            Column("Value #F", "Processes", unit="short", no_value="0"),
            Column("Value #A", "Messages", unit="short", decimals=0),
            Column("Value #B", "Out of scope", unit="percentunit", decimals=2, no_value="-"),
            Column("Value #C", "LLM errors", unit="percentunit", decimals=2, no_value="-"),
            Column("Value #D", "p95 latency", unit="ms", decimals=0, no_value="-"),
            Column("predecessor", "A rollback restores", no_value="-"),
        ],
        sort_by="Version",
        descending=True,
        no_value=panels.NO_MESSAGES,
    )


def _traffic_share(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Share of traffic per version",
        "Share of the messages of the last two minutes that each version answered. A rollback has reached "
        "every process when the version that was rolled back is at 0.",
        expr=queries.traffic_share(),
        legend="version {{config_version}}",
        unit="percentunit",
        decimals=0,
        no_value="no messages in the last two minutes",
        shape="stacked",
    )


def _processes(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Processes per version",
        "Processes by the version that they reported in the last minute. All should be on one version "
        "within seconds of a change.",
        expr=queries.processes(),
        legend="version {{config_version}}",
        unit="short",
        decimals=0,
        no_value="no process reports a version",
        shape="steps",
    )


def _error_reasons(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "LLM errors by reason",
        "Messages that ended in an LLM error in the window that ends at each point, by reason. If all "
        "reasons rise, look at the provider. If only invalid output rises, look at the configuration.",
        expr=queries.llm_errors_by_reason(),
        legend="{{reason}}",
        unit="short",
        decimals=0,
        shape="stacked",
    )


def _latency_distribution(panel_id: int) -> Builder[Panel]:
    return panels.heat_map(
        panel_id,
        "Latency distribution",
        "Messages by latency in the window that ends at each point. A stronger colour means more messages. "
        "Two bands mean two kinds of answers, which a percentile hides.",
        expr=queries.latency_buckets(),
        unit="s",
    )
