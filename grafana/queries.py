"""PromQL of the dashboards, built on the recorded `kpi:` series.

Label values are compared as regular expressions in backticks, with Grafana's `:regex` format: its default
escaping breaks on a double quote, and a raw string takes every persona name except one with a backtick in it.
"""

from typing import Literal

Scope = Literal["persona", "version"]

WINDOWS = ("1h", "6h", "24h", "7d")
"""Windows for which the rules record the KPI."""

MINIMUM_SAMPLE = 30
"""Messages below which a rate is not judged; the same limit as in the z test of `ConfigVersionRegression`."""

_JOURNEY = "journey=~`${journey:regex}`"
_PERSONA = "persona=~`${persona:regex}`"
_CONVERSATION = f"{_JOURNEY},{_PERSONA}"


def kpi(name: str, scope: Scope) -> str:
    """Selector of a recorded KPI at the chosen window, for the chosen journeys and personas."""
    return f'kpi:{name}{{scope="{scope}",window="$window",{_CONVERSATION}}}'


def messages(by: str = "") -> str:
    """Messages in the window, summed over the selection and grouped by the labels in `by`."""
    return f"sum{_by(by)} ({kpi('messages_total', 'persona')})"


def out_of_scope_rate(by: str = "") -> str:
    """Out-of-scope messages over chat messages: sums, then one division. Absent without chat messages."""
    chat = kpi("chat_messages_total", "persona")
    return f"sum{_by(by)} ({kpi('out_of_scope_total', 'persona')}) / (sum{_by(by)} ({chat}) > 0)"


def llm_error_rate(by: str = "") -> str:
    """Messages that ended in an LLM error over all messages. Absent without messages."""
    return f"sum{_by(by)} ({kpi('llm_errors_total', 'persona')}) / ({messages(by)} > 0)"


def p95_latency_ms(by: str = "") -> str:
    """95th percentile of the latency in ms, from summed buckets: percentiles cannot be averaged."""
    labels = f"le,{by}" if by else "le"
    buckets = f'sum by ({labels}) (kpi:latency_bucket:sum{{window="$window",{_CONVERSATION}}})'
    return f"1000 * histogram_quantile(0.95, {buckets}) >= 0"


def conversation_state() -> str:
    """2 exporter down, 1 silent, 0 receiving, -1 no message in the window."""
    return (
        f"2 * ({_firing('ExporterDown')} > bool 0)\n"
        f"or ({_firing('ConversationSilence', _JOURNEY)} > bool 0)\n"
        f"or ({messages()} > bool 0) - 1"
    )


def drift_state(alert: str, kpi_name: str) -> str:
    """2 version worse than its predecessor, 1 drifting from its own past, 0 healthy, -1 too few messages.

    The state is that of the alerts, so that a tile and a page never disagree.
    """
    regression = _firing("ConfigVersionRegression", f'kpi="{kpi_name}",{_CONVERSATION}')
    return (
        f"2 * ({regression} > bool 0)\n"
        f"or ({_firing(alert, _CONVERSATION)} > bool 0)\n"
        f"or ({messages()} >= bool {MINIMUM_SAMPLE}) - 1"
    )


def evidence(limit: int) -> str:
    """Natural log of the odds, 0 to 6, that a serving version's rate has tripled; the highest `limit`."""
    return f"topk({limit}, kpi:drift:evidence{{{_CONVERSATION}}})"


def evidence_since() -> str:
    """When that evidence last was zero, in ms since the epoch; absent while it is zero."""
    drifting = f"kpi:drift:evidence{{{_CONVERSATION}}} > 0"
    return f"1000 * kpi:drift:since{{{_CONVERSATION}}} and {drifting}"


def drift_events() -> str:
    """Events (out of scope, errors, slow) of each judged version in the last hour."""
    return f"kpi:drift:events_1h{{{_CONVERSATION}}}"


def drift_expected() -> str:
    """Events that the persona's own past would have given for the same messages."""
    return f"kpi:drift:expected_1h{{{_CONVERSATION}}}"


def against_predecessor() -> str:
    """Standard deviations by which a version is worse than its predecessor."""
    return f"kpi:version:z{{{_CONVERSATION}}}"


def firing_alerts() -> str:
    """Alerts that someone must act on; those without a persona are shown whatever is chosen."""
    return 'ALERTS{alertstate="firing",severity=~"page|ticket",persona=~`${persona:regex}|`}'


def active_version() -> str:
    """Active config version of each persona, as the label `config_version`."""
    return f'count_values by (persona) ("config_version", config_active_version{{{_PERSONA}}})'


def active_predecessor() -> str:
    """Version that a rollback of the active one would restore, as the label `predecessor`."""
    info = f"max by (persona,config_version,predecessor) (config_version_predecessor_info{{{_PERSONA}}})"
    return f"{info} and on (persona,config_version) {active_version()}"


def clients_on_active_version() -> str:
    """Processes that report serving the active version."""
    clients = f"sum by (persona,config_version) (config_clients{{{_PERSONA}}})"
    return f"{clients} and on (persona,config_version) {active_version()}"


def clients_on_other_versions() -> str:
    """Processes that report another version than the active one: 0 once a rollback has converged."""
    clients = f"config_clients{{{_PERSONA}}}"
    others = f"{clients} unless on (persona,config_version) {active_version()}"
    return f"sum by (persona) ({others}) or 0 * sum by (persona) ({clients})"


def config_changes() -> str:
    """Points in time at which another version of a persona became active, labelled with that version."""
    changes = f"changes(config_active_version{{{_PERSONA}}}[$__rate_interval])"
    return f"{active_version()} and on (persona) {changes} > 0"


def version_clients() -> str:
    """Processes that report serving each version, on the rows of the version table."""
    clients = f"sum by (persona,config_version) (config_clients{{{_PERSONA}}})"
    return f"{_version_rows()} + on (persona,config_version) group_left () {clients}"


def version_predecessor() -> str:
    """Version that a rollback of each version would restore, on the rows of the version table."""
    info = f"max by (persona,config_version,predecessor) (config_version_predecessor_info{{{_PERSONA}}})"
    return f"{_version_rows()} + on (persona,config_version) group_left (predecessor) {info}"


def version_active() -> str:
    """1 on the rows of the version table whose version is active."""
    return f"{_version_rows()} + 1 and on (persona,config_version) {active_version()}"


def _version_rows() -> str:
    return f"0 * {kpi('messages_total', 'version')}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _firing(alert: str, labels: str = "") -> str:
    extra = f",{labels}" if labels else ""
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"{extra}}})'


def coverage() -> str:
    """Share of the window in which the exporter was really scraped."""
    return 'kpi:coverage_ratio{window="$window"}'


def pushes() -> str:
    """Pushes per second, by what became of them."""
    return "sum by (result) (rate(exporter_pushes_total[$__rate_interval]))"


def lost_observations() -> str:
    """Observations per second that the KPI lack or count under another name, by reason."""
    rejected = "sum by (reason) (rate(exporter_rejected_total[$__rate_interval]))"
    dropped = "sum(rate(exporter_client_dropped_total[$__rate_interval]))"
    return f'{rejected} or label_replace({dropped}, "reason", "dropped_by_client", "", "")'


def series_share_of_limit() -> str:
    """Fullness of the exporter's table of label sets; at 1 new label sets become `other`."""
    return "max by (instance) (exporter_series / exporter_series_limit)"


def targets_up() -> str:
    """1 for each job that Prometheus can scrape, 0 where any target of it is down."""
    return "min by (job) (up)"


def rule_failures() -> str:
    """Failed rule evaluations per second, by rule group."""
    return "sum by (rule_group) (rate(prometheus_rule_evaluation_failures_total[$__rate_interval]))"


def rule_load() -> str:
    """Evaluation time of each rule group as a share of its interval; at 1 evaluations are missed."""
    return (
        "max by (rule_group) "
        "(prometheus_rule_group_last_duration_seconds / prometheus_rule_group_interval_seconds)"
    )


def rollbacks() -> str:
    """Rollbacks asked for within the dashboard's time range, by status."""
    return "sum by (status) (increase(config_rollbacks_total[$__range]))"


def audit_failures() -> str:
    """Acts refused within the dashboard's time range because the audit row could not be written."""
    return "sum(increase(config_audit_failures_total[$__range]))"
