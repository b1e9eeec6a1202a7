"""PromQL of the pipeline dashboard: what the programs say about themselves."""


def coverage() -> str:
    """Share of the window in which the exporter was really scraped."""
    return 'kpi:coverage_ratio{window="$window"}'


def pushes() -> str:
    """Pushes per second, by result."""
    return "sum by (result) (rate(exporter_pushes_total[$__rate_interval]))"


def lost_observations() -> str:
    """Observations per second that the KPI lack or count under another name, by reason that occurs.

    The clients' drops are always there, so that nothing lost differs from nothing scraped.
    """
    rejected = "sum by (reason) (rate(exporter_rejected_total[$__rate_interval])) > 0"
    dropped = "sum(rate(exporter_client_dropped_total[$__rate_interval]))"
    return f'{rejected} or label_replace({dropped}, "reason", "dropped_by_client", "", "")'


def journal_recoveries() -> str:
    """Starts of an exporter within the dashboard's time range that found a fault in the journal, by fault."""
    return "sum by (fault) (max_over_time(exporter_journal_recoveries_total[$__range]))"


def series_share_of_limit() -> str:
    """Fullness of the exporter's table of label sets; at 1 new label sets become `other`."""
    return "max by (instance) (exporter_series / exporter_series_limit)"


def targets_up() -> str:
    """1 for each job that Prometheus can scrape, 0 where any target of it is down."""
    return "min by (job) (up)"


def scrape_duration() -> str:
    """Seconds that the slowest target of each job takes to be scraped."""
    return "max by (job) (scrape_duration_seconds)"


def alerting_state() -> str:
    """1 while alerts reach Alertmanager, 0 while sending fails, absent while no rule is evaluated."""
    return (
        'count(ALERTS{alertname="Watchdog",alertstate="firing"})\n'
        "unless on () (sum(increase(prometheus_notifications_errors_total[5m])) > 0)\n"
        'or 0 * count(ALERTS{alertname="Watchdog",alertstate="firing"})'
    )


def rule_age() -> str:
    """Seconds since each rule group was last evaluated."""
    return f"time() - {_by_group('max', 'prometheus_rule_group_last_evaluation_timestamp_seconds > 0')}"


def rule_failures() -> str:
    """Failed rule evaluations per second, by rule group."""
    return _by_group("sum", "rate(prometheus_rule_evaluation_failures_total[$__rate_interval])")


def rule_load() -> str:
    """Evaluation time of each rule group as a share of its interval; at 1 evaluations are missed."""
    share = "prometheus_rule_group_last_duration_seconds / prometheus_rule_group_interval_seconds"
    return _by_group("max", share)


def notifications() -> str:
    """Alert notifications per second that failed, by the step that failed."""
    prometheus = "sum(rate(prometheus_notifications_errors_total[$__rate_interval]))"
    failed = "rate(alertmanager_notifications_failed_total[$__rate_interval])"
    alertmanager = f"sum by (integration) ({failed}) > 0"
    return (
        f'label_replace({prometheus}, "step", "Prometheus to Alertmanager", "", "")\n'
        f'or label_replace({alertmanager}, "step", "Alertmanager to $1", "integration", "(.*)")'
    )


def rollbacks() -> str:
    """Requested rollbacks within the dashboard's time range, by status."""
    return "sum by (status) (increase(config_rollbacks_total[$__range]))"


def activations() -> str:
    """Versions activated within the dashboard's time range, by action."""
    return "sum by (action) (increase(config_activations_total[$__range]))"


def refused_logins() -> str:
    """Requests per second that config_rollback refused without valid credentials, by error code."""
    return "sum by (code) (rate(config_authentication_failures_total[$__rate_interval]))"


def audit_state() -> str:
    """1 while audit rows cannot be written, 0 while they can, absent while config_rollback is not scraped."""
    return "max(increase(config_audit_failures_total[15m]) > bool 0)"


def audit_failures() -> str:
    """Acts refused within the dashboard's time range because the audit row could not be written."""
    return "sum(increase(config_audit_failures_total[$__range]))"


def withheld() -> str:
    """Personas whose configuration is withheld; absent while config_rollback is not scraped."""
    return 'count(max by (persona) (config_withheld) > 0) or 0 * max(up{job="config_rollback"} == 1)'


def _by_group(aggregation: str, expr: str) -> str:
    """Aggregated by rule group, whose label is the group's name instead of file and name."""
    return f'{aggregation} by (group) (label_replace({expr}, "group", "$1", "rule_group", ".*;(.*)"))'
