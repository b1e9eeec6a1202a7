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

EVIDENCE_STARTS, EVIDENCE_ENDS = 6.4, 3.5
"""Evidence at which a drift alert starts and below which it ends."""

REGRESSION_STARTS, REGRESSION_ENDS = 3.5, 2.5
"""Standard deviations above which a version is worse than its predecessor, and below which no longer."""

_JOURNEY = "journey=~`${journey:regex}`"
_PERSONA = "persona=~`${persona:regex}`"
_CONVERSATION = f"{_JOURNEY},{_PERSONA}"

_KPI_INTERVAL = 'max(prometheus_rule_group_interval_seconds{rule_group=~".*;kpi"})'
_STALE_SECONDS = f"scalar(clamp_min(3 * {_KPI_INTERVAL}, 180) or vector(180))"
_STALE_RULES = f'time() - timestamp(kpi:messages_total{{scope="total",window="1h"}}) > {_STALE_SECONDS}'
"""Three evaluations missed, and three minutes, which stand where the interval is not known.

After five minutes Prometheus shows no KPI and no alert any more.
"""

_FAILING_RULES = 'increase(prometheus_rule_evaluation_failures_total{rule_group=~".*;(kpi|drift)"}[5m]) > 0'


def _firing(alert: str, labels: str = "") -> str:
    extra = f",{labels}" if labels else ""
    return f'ALERTS{{alertname="{alert}",alertstate="firing"{extra}}}'


_NO_EXPORTER = f'({_firing("ExporterDown")} unless on () max(up{{job="exporter"}}) > 0)'
"""The alert fires for every exporter that is down; the others still say how the conversation is."""


def kpi(name: str, scope: Scope, *, previous: bool = False) -> str:
    """Selector of a recorded KPI at the chosen window, or at the equally long one before it."""
    return f'kpi:{name}{{scope="{scope}",window="$window",{_CONVERSATION}}}{_offset(previous)}'


def messages(by: str = "", *, previous: bool = False) -> str:
    """Messages in the window, summed over the selection and grouped by the labels in `by`."""
    return f"sum{_by(by)} ({kpi('messages_total', 'persona', previous=previous)})"


def out_of_scope_rate(by: str = "", *, previous: bool = False) -> str:
    """Out-of-scope messages over those that can be so: sums, then one division. Absent without any."""
    events = kpi("out_of_scope_total", "persona", previous=previous)
    of = kpi("scoped_messages_total", "persona", previous=previous)
    return f"sum{_by(by)} ({events}) / (sum{_by(by)} ({of}) > 0)"


def llm_error_rate(by: str = "", *, previous: bool = False) -> str:
    """Messages that ended in an LLM error over all messages. Absent without messages."""
    errors = kpi("llm_errors_total", "persona", previous=previous)
    return f"sum{_by(by)} ({errors}) / ({messages(by, previous=previous)} > 0)"


def p95_latency_ms(by: str = "", *, previous: bool = False) -> str:
    """95th percentile of the latency in ms, from summed buckets: percentiles cannot be averaged."""
    return f"1000 * histogram_quantile(0.95, {latency_buckets(by, previous=previous)}) >= 0"


def latency_buckets(by: str = "", *, previous: bool = False) -> str:
    """Messages of the window by upper bound of their latency in s, cumulative."""
    labels = f"le,{by}" if by else "le"
    return (
        f'sum by ({labels}) (kpi:latency_bucket:sum{{window="$window",{_CONVERSATION}}}{_offset(previous)})'
    )


def llm_errors_by_reason() -> str:
    """LLM errors of the window by reason, exact: the difference of two counts of each durable journal.

    The recorded KPI have no reason, so the rules' method is repeated here. What was not seen at the window's
    start counts from 0 if it was born inside the window, and not at all if it was not (a fresh database).
    """
    identity = "journal,journey,persona,config_version"
    errors = f"conversation_llm_errors_total{{{_CONVERSATION}}}"
    now = f"max by ({identity},reason) ({errors})"
    then = f"max by ({identity},reason) ({errors} offset $window)"
    start = "min_over_time(vector(time())[1m:1m] offset $window)"
    born = f"kpi:created:last{{{_CONVERSATION}}} > on () group_left () {start}"
    return f"sum by (reason) (\n  {now}\n  - ({then} or 0 * {now} and on ({identity}) {born})\n)"


def conversation_state() -> str:
    """3 rules not evaluated, 2 no exporter, 1 silent, 4 some exporter down, 0 receiving, -1 no message."""
    return (
        f"3 * (count({_STALE_RULES}) > bool 0)\n"
        f"or 2 * (count({_NO_EXPORTER}) > bool 0)\n"
        f"or (count({_firing('ConversationSilence', _CONVERSATION)}) > bool 0)\n"
        f"or 4 * (count({_firing('ExporterDown')}) > bool 0)\n"
        f"or ({messages()} > bool 0) - 1"
    )


def drift_state(alert: str, kpi_name: str) -> str:
    """3 unknown, 2 worse than its predecessor, 1 drifting, 0 healthy, -1 too few messages, -2 no reference.

    The state is that of the alerts, so that a tile and a page never disagree. It is healthy only where an
    alert could fire: an exporter is scraped, the rules are evaluated, and there is a past or a predecessor.
    """
    regression = _firing("ConfigVersionRegression", f'kpi="{kpi_name}",{_CONVERSATION}')
    past = f'kpi:drift:baseline{{kpi="{kpi_name}",{_CONVERSATION}}}'
    predecessor = f'kpi:predecessor:messages{{kpi="{kpi_name}",{_CONVERSATION}}} >= {MINIMUM_SAMPLE}'
    return (
        f"3 * (count({_NO_EXPORTER} or {_STALE_RULES} or {_FAILING_RULES}) > bool 0)\n"
        f"or 2 * (count({regression}) > bool 0)\n"
        f"or (count({_firing(alert, _CONVERSATION)}) > bool 0)\n"
        f"or 0 * count({past} or {predecessor}) and on () {messages()} >= {MINIMUM_SAMPLE}\n"
        f"or -1 - ({messages()} >= bool {MINIMUM_SAMPLE})"
    )


def evidence() -> str:
    """Evidence that a serving version's rate has tripled: a log likelihood ratio, from 0 to 6.4."""
    return _judged("kpi:drift:evidence")


def evidence_since() -> str:
    """When that evidence last was zero, in ms since the epoch; absent while it is zero."""
    return f"1000 * {_judged('kpi:drift:since')} and {_judged('kpi:drift:evidence')} > 0"


def drift_events() -> str:
    """Events (out of scope, errors, slow) of each judged version in the last hour."""
    return _judged("kpi:drift:events_1h")


def drift_expected() -> str:
    """Events that the persona's own past would have given for the same messages."""
    return _judged("kpi:drift:expected_1h")


def against_predecessor() -> str:
    """Standard deviations by which a version is worse than its predecessor, whose label it has."""
    return _judged("kpi:version:z", "predecessor")


def firing_alerts() -> str:
    """Alerts that someone must act on; those without journey and persona are shown whatever is chosen."""
    chosen = "journey=~`${journey:regex}|`,persona=~`${persona:regex}|`"
    return f'ALERTS{{alertstate="firing",severity=~"page|ticket",{chosen}}}'


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


def version_kpi(name: str) -> str:
    """A recorded KPI at the chosen window, on the rows of the version table."""
    return f"max by (journey,persona,config_version) ({kpi(name, 'version')})"


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


def _judged(series: str, *labels: str) -> str:
    """A recorded series of judged versions with the labels of a table's row and no name."""
    kept = ",".join(("journey", "persona", "config_version", "kpi", *labels))
    return f"max by ({kept}) ({series}{{{_CONVERSATION}}})"


def _version_rows() -> str:
    return f"0 * {version_kpi('messages_total')}"


def traffic_share() -> str:
    """Share of the messages of the last two minutes that each version answered; absent without messages."""
    recent = f"kpi:messages:recent{{{_CONVERSATION}}}"
    return f"sum by (config_version) ({recent}) / on () group_left () (sum({recent}) > 0)"


def processes() -> str:
    """Processes that report serving each version."""
    return f"sum by (config_version) (config_clients{{{_PERSONA}}})"


def _offset(previous: bool) -> str:
    return " offset $window" if previous else ""


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
