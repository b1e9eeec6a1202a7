"""Persona and versions: the KPI of one persona, version by version. Alerts link here, by panel id."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels, queries, variables
from grafana.dashboards import _frame
from grafana.panels import Column

_LEGEND = "{{journey}} version {{config_version}}"


def dashboard() -> Dashboard:
    """The dashboard `driftback-persona`.

    Panels 1, 2 and 3 are named by the `__panelId__` annotations of the rules: their ids are public.
    """
    return _frame.build(
        "driftback-persona",
        "Persona and versions",
        "The KPI of one persona, version by version, and the way to the rollback page.",
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
                (9, [(24, _versions(4))]),
            ]
        ),
    )


def _out_of_scope(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Out-of-scope rate per version",
        "Share of the version's chat messages outside the persona's topics, over the window that ends at "
        "each point. A version that no longer serves fades out as the window moves on.",
        expr=queries.kpi("out_of_scope_rate", "version"),
        legend=_LEGEND,
        unit="percentunit",
        decimals=2,
    )


def _llm_errors(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "LLM error rate per version",
        "Share of the version's messages that ended in an LLM error, over the window that ends at each "
        "point.",
        expr=queries.kpi("llm_error_rate", "version"),
        legend=_LEGEND,
        unit="percentunit",
        decimals=2,
    )


def _latency(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "p95 latency per version",
        "95th percentile of the version's latency over the window that ends at each point. Below 20 "
        "messages it is noise.",
        expr=queries.kpi("p95_latency_ms", "version"),
        legend=_LEGEND,
        unit="ms",
        decimals=0,
    )


def _versions(panel_id: int) -> Builder[Panel]:
    return panels.facts_table(
        panel_id,
        "Versions",
        "Every version with messages in the last days, newest first, and its KPI in the window. The version"
        " opens its rollback page, which changes nothing if that version is no longer active.",
        exprs=[
            queries.kpi("messages_total", "version"),
            queries.kpi("out_of_scope_rate", "version"),
            queries.kpi("llm_error_rate", "version"),
            queries.kpi("p95_latency_ms", "version"),
            queries.version_active(),
            queries.version_clients(),
            queries.version_predecessor(),
        ],
        columns=[
            panels.version_column("Version"),
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
