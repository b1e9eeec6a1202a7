"""Rules and runbooks use only metrics that exist, and record the series of the contract."""

import pytest

from exporter import catalogue
from tests.rules.files import (
    RULE_FILES,
    Rule,
    alerts,
    annotation_queries,
    load,
    recorded,
    rules,
    runbook_queries,
    selectors,
)

CONFIG_ROLLBACK_METRICS = {
    "config_active_version",
    "config_audit_failures_total",
    "config_baseline_accepted_timestamp_seconds",
    "config_clients",
    "config_database_up",
    "config_rollbacks_total",
    "config_version_predecessor_info",
    "config_withheld",
}
PROMETHEUS_METRICS = {
    "ALERTS",
    "alertmanager_notifications_failed_total",
    "process_start_time_seconds",
    "prometheus_notifications_errors_total",
    "prometheus_rule_evaluation_failures_total",
    "prometheus_rule_group_iterations_missed_total",
    "up",
}

WINDOWS = {"1h", "6h", "24h", "7d"}
SCOPES = {"total", "journey", "persona", "version"}
KPI = {
    "kpi:messages_total",
    "kpi:scoped_messages_total",
    "kpi:out_of_scope_total",
    "kpi:llm_errors_total",
    "kpi:out_of_scope_rate",
    "kpi:llm_error_rate",
    "kpi:p95_latency_ms",
}


def _exposed() -> set[str]:
    """Names of the exporter's series; a histogram has three."""
    names = set()
    for metric in (*catalogue.CONVERSATION_METRICS, *catalogue.SELF_METRICS):
        suffixes = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        names |= {metric.name + suffix for suffix in suffixes}
    return names


def _known() -> set[str]:
    return _exposed() | recorded() | CONFIG_ROLLBACK_METRICS | PROMETHEUS_METRICS


def _names(expression: str) -> set[str]:
    names = {selector.name for selector in selectors(expression)}
    assert None not in names, f"a selector without a metric name: {expression}"
    return {name for name in names if name}


def _title(rule: Rule) -> str:
    labels = rule.get("labels", {})
    return " ".join([rule.get("alert") or rule["record"], *labels.values()])


@pytest.mark.parametrize("rule", rules(), ids=_title)
def test_rules_use_only_metrics_that_exist(rule: Rule) -> None:
    assert _names(rule["expr"]) <= _known()


@pytest.mark.parametrize("rule", alerts(), ids=_title)
def test_annotations_look_up_only_metrics_that_exist(rule: Rule) -> None:
    queries = list(annotation_queries(rule))
    assert len(queries) == sum(text.count("| query") for text in rule["annotations"].values())
    for query in queries:
        assert _names(query) <= _known(), query


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in alerts()}))
def test_runbooks_use_only_metrics_that_exist(alert: str) -> None:
    for query in runbook_queries(alert):
        assert _names(query) <= _known(), query


def test_no_metric_is_listed_that_nobody_uses() -> None:
    expressions = [rule["expr"] for rule in rules()]
    expressions += [query for rule in alerts() for query in annotation_queries(rule)]
    expressions += [query for rule in alerts() for query in runbook_queries(rule["alert"])]
    used = set().union(*map(_names, expressions))
    assert used >= CONFIG_ROLLBACK_METRICS | PROMETHEUS_METRICS


def test_the_kpi_of_the_contract_are_recorded_in_every_scope_and_window() -> None:
    scopes = {(rule["record"], rule["labels"]["scope"]) for rule in rules() if rule.get("record") in KPI}
    assert scopes == {(name, scope) for name in KPI for scope in SCOPES}
    windows = {(r["record"], r["labels"]["window"]) for r in rules() if str(r.get("record")).endswith(":sum")}
    counters = ("messages", "out_of_scope", "llm_errors", "latency_bucket")
    assert windows == {(f"kpi:{counter}:sum", window) for counter in counters for window in WINDOWS}


def test_groups_leave_the_interval_to_prometheus() -> None:
    for path in RULE_FILES:
        for group in load(path)["groups"]:
            assert set(group) == {"name", "rules"}
