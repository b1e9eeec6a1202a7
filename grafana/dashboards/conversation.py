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
                "Persona and versions", variables.PERSONA_URL, "The KPI of one persona, version by version"
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
        "Finished messages in the window, whatever their outcome. The state says whether messages arrive at"
        " all.",
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
        "Share of messages outside the persona's topics, of the journeys that can be out of scope. The state "
        "is that of the alerts OutOfScopeDrift and ConfigVersionRegression for the chosen personas.",
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
        " content filter). The state is that of the alerts LlmErrorDrift and ConfigVersionRegression.",
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
        "95% of the messages in the window were answered within this time (read off buckets that are a "
        "fifth wide: exact to about 2% where latencies spread, to 20% where all are alike). The state is "
        "that of the alerts LatencyDrift and ConfigVersionRegression.",
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
        "Share of the window in which the exporter was scraped. Below 99% the numbers beside it may lack "
        "messages, and a young Prometheus compares with less than a full window.",
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
        "Pending and firing alerts of all personas. Open one for its rollback page, dashboard and runbook. "
        "Empty means that nothing fires; rules that are no longer evaluated show as a missing Watchdog in "
        "Alertmanager.",
    )


def _drifting_personas(panel_id: int) -> Builder[Panel]:
    return tables.facts_table(
        panel_id,
        "Drifting personas",
        "What is known against each serving version, the strongest evidence first. At evidence "
        f"{queries.EVIDENCE_STARTS} that its rate has tripled against the persona's own past an alert "
        f"starts, below {queries.EVIDENCE_ENDS} it ends; z above {queries.REGRESSION_STARTS} means worse "
        f"than the predecessor, until it is below {queries.REGRESSION_ENDS}. The persona opens its versions "
        "side by side, the version its rollback page.",
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
        no_value="no version has enough messages to be judged",
    )


def _messages_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Messages per journey",
        "Finished messages in the window that ends at each point.",
        expr=queries.messages("journey"),
        legend="{{journey}}",
        unit="short",
        decimals=0,
    )


def _out_of_scope_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Out-of-scope rate per journey",
        "Share of messages outside the persona's topics, over the window that ends at each point. "
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
        "Share of messages that ended in an LLM error, over the window that ends at each point.",
        expr=queries.llm_error_rate("journey"),
        legend="{{journey}}",
        unit="percentunit",
        decimals=2,
    )


def _latency_trend(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "p95 latency per journey",
        "95th percentile of the latency over the window that ends at each point.",
        expr=queries.p95_latency_ms("journey"),
        legend="{{journey}}",
        unit="ms",
        decimals=0,
    )


def _active_versions(panel_id: int) -> Builder[Panel]:
    return tables.facts_table(
        panel_id,
        "Active config versions",
        "What each persona should be serving, the version a rollback would restore, and how many processes "
        "report each. Processes on other versions should be 0 within seconds of a change.",
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
