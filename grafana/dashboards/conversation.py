"""Conversation quality: is the conversation healthy, and if not, which persona and version is it?"""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels, pipeline_queries, queries, tables, variables
from grafana.dashboards import _frame
from grafana.tables import Column

_VOLUME_STATES = {
    "0": ("Receiving", "green"),
    "1": ("Silent: messages stopped", "red"),
    "2": ("Exporter down: numbers are old", "red"),
    "4": ("One exporter down: some numbers old", "orange"),
    "3": ("Rules not evaluated: numbers are old", "red"),
    "-1": ("No messages in this window", "orange"),
}
_DRIFT_STATES = {
    "0": ("Healthy", "green"),
    "1": ("Drifting from its own past", "red"),
    "2": ("A version is worse than its predecessor", "red"),
    "3": ("Unknown: exporter down or rules not evaluated", "red"),
    "-1": ("Too few messages to judge", "blue"),
    "-2": ("No past or predecessor to judge by", "blue"),
}


def dashboard() -> Dashboard:
    """The dashboard `driftback-conversation`: symptoms first, then causes, then trends."""
    return _frame.build(
        "driftback-conversation",
        "Conversation quality",
        "Is the conversation healthy, and if not, which persona and which config version is it?",
        links=[
            variables.dashboard_link(
                "Persona and versions", variables.PERSONA_URL, "The KPIs of one persona, version by version"
            ),
            variables.dashboard_link("Pipeline", variables.PIPELINE_URL, "Can these numbers be trusted?"),
            variables.rollback_home_link(),
        ],
        variable_list=[
            variables.datasource(),
            variables.window(),
            variables.journey(),
            variables.personas(),
            variables.rollback_url(),
        ],
        panels=panels.place(
            [
                (
                    7,
                    [
                        (5, _messages(1)),
                        (5, _out_of_scope(2)),
                        (5, _llm_errors(3)),
                        (5, _latency(4)),
                        (4, _coverage(12)),
                    ],
                ),
                (9, [(8, _alerts(5)), (16, _drifting_personas(6))]),
                (8, [(12, _messages_trend(7)), (12, _out_of_scope_trend(8))]),
                (8, [(12, _llm_errors_trend(9)), (12, _latency_trend(10))]),
                (7, [(24, _active_versions(11))]),
            ]
        ),
    )


def _messages(panel_id: int) -> Builder[Panel]:
    return panels.kpi_stat(
        panel_id,
        "Messages",
        "Messages that ended in the window, whatever their outcome. The state says whether messages arrive.",
        value=queries.messages(),
        previous=queries.messages(previous=True),
        state=queries.conversation_state(),
        unit="short",
        decimals=0,
        states=_VOLUME_STATES,
    )


def _out_of_scope(panel_id: int) -> Builder[Panel]:
    return panels.kpi_stat(
        panel_id,
        "Out-of-scope rate",
        "Share of messages outside the persona's topics, in journeys that can be out of scope. The state "
        "comes from the alerts OutOfScopeDrift and ConfigVersionRegression of the chosen personas.",
        value=queries.out_of_scope_rate(),
        previous=queries.out_of_scope_rate(previous=True),
        state=queries.drift_state("OutOfScopeDrift", "out_of_scope_rate"),
        unit="percentunit",
        decimals=2,
        states=_DRIFT_STATES,
    )


def _llm_errors(panel_id: int) -> Builder[Panel]:
    return panels.kpi_stat(
        panel_id,
        "LLM error rate",
        "Share of messages that ended in an LLM error (timeout, rate limit, provider error, invalid output,"
        " content filter). The state comes from the alerts LlmErrorDrift and ConfigVersionRegression.",
        value=queries.llm_error_rate(),
        previous=queries.llm_error_rate(previous=True),
        state=queries.drift_state("LlmErrorDrift", "llm_error_rate"),
        unit="percentunit",
        decimals=2,
        states=_DRIFT_STATES,
    )


def _latency(panel_id: int) -> Builder[Panel]:
    return panels.kpi_stat(
        panel_id,
        "p95 latency",
        "95% of the messages in the window were answered within this time. It comes from histogram buckets "
        "that are 20% wide. The error is about 2% if latencies vary, and up to 20% if all are alike. The "
        "state comes from the alerts LatencyDrift and ConfigVersionRegression.",
        value=queries.p95_latency_ms(),
        previous=queries.p95_latency_ms(previous=True),
        state=queries.drift_state("LatencyDrift", "p95_latency_ms"),
        unit="ms",
        decimals=0,
        states=_DRIFT_STATES,
    )


def _coverage(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Coverage",
        "Share of the window in which the exporter was scraped. Below 99% the other numbers may lack "
        "messages. If Prometheus is younger than the window, they cover a shorter time.",
        expr=pipeline_queries.coverage(),
        legend="of the last $window",
        unit="percentunit",
        decimals=1,
        steps=((0, "orange"), (0.99, "green")),
        no_value="coverage unknown: rules not evaluated",
    )


def _alerts(panel_id: int) -> Builder[Panel]:
    return panels.alert_list(
        panel_id,
        "Alerts",
        "Pending and firing alerts of all personas. Open an alert for its rollback page, dashboard and "
        "runbook. An empty list means that nothing fires. If rules are no longer evaluated, Watchdog is "
        "missing in Alertmanager.",
    )


def _drifting_personas(panel_id: int) -> Builder[Panel]:
    return tables.facts_table(
        panel_id,
        "Drifting personas",
        "Evidence of drift for each serving version, the strongest first. Evidence means that the rate has "
        f"tripled against the persona's own past. An alert starts at {queries.EVIDENCE_STARTS} and ends "
        f"below {queries.EVIDENCE_ENDS}. A version is worse than its predecessor when z is above "
        f"{queries.REGRESSION_STARTS}, until z is below {queries.REGRESSION_ENDS}. The persona opens its "
        "versions side by side. The version opens its rollback page.",
        exprs=[
            queries.evidence(),
            queries.evidence_since(),
            queries.drift_events(),
            queries.drift_expected(),
            queries.against_predecessor(),
        ],
        columns=[
            tables.persona_column(),
            tables.version_column("Version"),
            Column("journey", "Journey"),
            Column("kpi", "KPI"),
            Column(
                "Value #A",
                "Evidence",
                decimals=1,
                no_value="no past yet",
                steps=((queries.EVIDENCE_ENDS, "orange"), (queries.EVIDENCE_STARTS, "red")),
            ),
            Column("Value #B", "Since", unit="dateTimeFromNow", no_value="-"),
            Column("Value #C", "Events, last hour", unit="short", decimals=0, no_value="-"),
            Column("Value #D", "Expected", unit="short", decimals=1, no_value="-"),
            Column(
                "Value #E",
                "z against predecessor",
                decimals=1,
                no_value="-",
                steps=((queries.REGRESSION_ENDS, "orange"), (queries.REGRESSION_STARTS, "red")),
            ),
            Column("predecessor", "Predecessor", no_value="-"),
        ],
        sort_by="Evidence",
        descending=True,
        no_value="no version has enough messages to judge",
    )


def _messages_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Messages per journey",
        "Messages that ended in the window. Each point is the end of a window.",
        expr=queries.messages("journey"),
        legend="{{journey}}",
        unit="short",
        decimals=0,
    )


def _out_of_scope_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Out-of-scope rate per journey",
        "Share of messages outside the persona's topics in the window that ends at each point. "
        "A journey that cannot be out of scope has no line.",
        expr=queries.out_of_scope_rate("journey"),
        legend="{{journey}}",
        unit="percentunit",
        decimals=2,
    )


def _llm_errors_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "LLM error rate per journey",
        "Share of messages that ended in an LLM error in the window that ends at each point.",
        expr=queries.llm_error_rate("journey"),
        legend="{{journey}}",
        unit="percentunit",
        decimals=2,
    )


def _latency_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "p95 latency per journey",
        "95th percentile of the latency in the window that ends at each point.",
        expr=queries.p95_latency_ms("journey"),
        legend="{{journey}}",
        unit="ms",
        decimals=0,
    )


def _active_versions(panel_id: int) -> Builder[Panel]:
    return tables.facts_table(
        panel_id,
        "Active config versions",
        "The active version of each persona, the version that a rollback would restore, and the processes "
        "that report each. Within seconds of a change, no process should be on another version.",
        exprs=[
            queries.active_version(),
            queries.active_predecessor(),
            queries.clients_on_active_version(),
            queries.clients_on_other_versions(),
        ],
        columns=[
            tables.persona_column(),
            tables.version_column("Active version"),
            Column("predecessor", "A rollback restores", no_value="nothing to restore"),
            Column("Value #C", "Processes on it", unit="short", no_value="none reported"),
            Column("Value #D", "Processes on other versions", unit="short", no_value="none reported"),
        ],
        sort_by="Persona",
        no_value="config_rollback reports no active version",
    )
