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
_ALERT_LABELS = "severity,journey,persona,config_version,kpi"
_DRIFT_ALERTS = "OutOfScopeDrift|LlmErrorDrift|LatencyDrift|ConfigVersionRegression"


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


def drift_state(alert: str, kpi_pattern: str) -> str:
    """2 version worse than its predecessor, 1 drifting from its own past, 0 healthy, -1 too few messages.

    The state is that of the alerts, so that a tile and a page never disagree.
    """
    regression = _firing("ConfigVersionRegression", f'kpi=~"{kpi_pattern}",{_CONVERSATION}')
    return (
        f"2 * ({regression} > bool 0)\n"
        f"or ({_firing(alert, _CONVERSATION)} > bool 0)\n"
        f"or ({messages()} >= bool {MINIMUM_SAMPLE}) - 1"
    )


def drift_alerts() -> str:
    """One row per pending or firing drift alert, with the version to leave."""
    alerts = f'ALERTS{{alertname=~"{_DRIFT_ALERTS}",{_CONVERSATION}}}'
    return f"max by (alertname,alertstate,{_ALERT_LABELS}) ({alerts})"


def drift_alerts_since() -> str:
    """When each of those alerts became active, in ms since the epoch."""
    alerts = f'ALERTS_FOR_STATE{{alertname=~"{_DRIFT_ALERTS}",{_CONVERSATION}}}'
    return f"1000 * max by (alertname,{_ALERT_LABELS}) ({alerts})"


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
