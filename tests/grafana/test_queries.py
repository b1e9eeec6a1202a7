"""Every expression parses and uses only metrics and labels that something produces."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from driftback import contract
from exporter import catalogue
from grafana import queries
from tests.grafana import model
from tests.grafana.model import Json

CONFIG_ROLLBACK_METRICS = {
    "config_active_version": {"persona"},
    "config_version_predecessor_info": {"persona", "config_version", "predecessor"},
    "config_clients": {"persona", "config_version"},
    "config_rollback_info": {"external_url"},
    "config_rollbacks_total": {"status"},
    "config_audit_failures_total": set(),
    "config_withheld": {"persona"},
    "config_activations_total": {"persona", "action"},
    "config_authentication_failures_total": {"code"},
}
"""The metrics of config_rollback that dashboards use; `config_rollback.metrics` exports them."""

PROMETHEUS_METRICS: dict[str, set[str]] = {  # and Alertmanager's
    "up": set(),
    "prometheus_rule_evaluation_failures_total": {"rule_group"},
    "prometheus_rule_group_last_duration_seconds": {"rule_group"},
    "prometheus_rule_group_interval_seconds": {"rule_group"},
    "prometheus_rule_group_last_evaluation_timestamp_seconds": {"rule_group"},
    "prometheus_notifications_errors_total": {"alertmanager"},
    "alertmanager_notifications_failed_total": {"integration"},
    "scrape_duration_seconds": set(),
}

TARGET_LABELS = {"job", "instance"}
PLAIN = {"window": "1h", "journey": ".*", "persona": ".*"}

EXPRESSIONS = model.all_expressions()
cases = pytest.mark.parametrize(
    "expr", [expr for _, expr in EXPRESSIONS], ids=[where for where, _ in EXPRESSIONS]
)


def _series_labels() -> dict[str, set[str]]:
    """Labels that each series may carry, by name."""
    foreign = CONFIG_ROLLBACK_METRICS | PROMETHEUS_METRICS
    known = {name: labels | TARGET_LABELS for name, labels in foreign.items()}
    for metric in (*catalogue.CONVERSATION_METRICS, *catalogue.SELF_METRICS):
        labels = {*metric.labels, *TARGET_LABELS}
        known[metric.name] = labels
        if metric.kind == "histogram":
            known |= {f"{metric.name}_bucket": labels | {"le"}, f"{metric.name}_count": labels}
    for rule in model.rules():
        if "record" in rule:
            sources = [known.get(selector.name, set()) for selector in _selectors(rule["expr"])]
            labels = {*rule.get("labels", {}), *_labels_named(rule["expr"])}.union(*sources)
            known.setdefault(rule["record"], set()).update(labels)
    alert = {"alertname", "alertstate", "severity", "kpi", *contract.LABEL_SET}
    return known | {"ALERTS": alert, "ALERTS_FOR_STATE": alert - {"alertstate"}}


def _nodes(expr: str) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expr), lambda node: found.append(node))
    return found


def _selectors(expr: str) -> Iterator[Any]:
    for node in _nodes(expr):
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        elif isinstance(node, promql_parser.MatrixSelector):
            yield node.vector_selector


def _labels_named(expr: str) -> set[str]:
    """Labels in `by`, `without`, `on`, `ignoring` and `group_left`."""
    return {
        label.strip()
        for group in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
        for label in group.split(",")
        if label.strip()
    }


SERIES = _series_labels()


def test_limits_that_panels_name_are_those_of_the_rules() -> None:
    text = (model.ROOT / "rules" / "templates" / "parameters.yml").read_text(encoding="utf-8")
    parameters = yaml.safe_load(text)
    drift, regression = parameters["drift"], parameters["regression"]
    assert (drift["start"], drift["end"]) == (queries.EVIDENCE_STARTS, queries.EVIDENCE_ENDS)
    limits = (queries.REGRESSION_STARTS, queries.REGRESSION_ENDS)
    assert (regression["threshold"], regression["end"]) == limits
    assert regression["minimum_messages"] == queries.MINIMUM_SAMPLE


def test_config_rollback_exports_the_metrics_that_dashboards_use() -> None:
    source = (model.ROOT / "config_rollback" / "metrics.py").read_text(encoding="utf-8")
    for name in CONFIG_ROLLBACK_METRICS:
        assert f'"{name.removesuffix("_total")}"' in source


@cases
def test_expression_parses_and_names_only_known_series_and_labels(expr: str) -> None:
    plain = model.interpolate(expr, PLAIN)
    assert "$" not in re.sub(r'\$1", "\w+", "', "", plain), "only in label_replace"
    used: set[str] = set()
    for selector in _selectors(plain):
        assert selector.name in SERIES, selector.name
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= SERIES[selector.name], f"{selector.name}: {labels - SERIES[selector.name]}"
        used |= SERIES[selector.name]
    produced = used | _made(plain)
    assert _labels_named(plain) <= produced | {"le"}


def test_a_misspelt_metric_or_label_is_found() -> None:
    for misspelt in ('kpi:mesages_total{scope="version"}', "config_active_version{personna=`x`}"):
        with pytest.raises(AssertionError):
            test_expression_parses_and_names_only_known_series_and_labels(misspelt)


@cases
def test_recorded_kpi_are_asked_for_at_windows_and_scopes_that_the_rules_record(expr: str) -> None:
    recorded = [rule for rule in model.rules() if rule.get("record", "").startswith("kpi:")]
    for window in ("1h", "6h", "24h", "7d"):
        for selector in _selectors(model.interpolate(expr, PLAIN | {"window": window})):
            if not selector.name.startswith("kpi:"):
                continue
            wanted = {m.name: m.value for m in selector.matchers.matchers if m.name == "scope"}
            labels = [rule.get("labels", {}) for rule in recorded if rule["record"] == selector.name]
            assert any(wanted.items() <= known.items() for known in labels), f"{selector}"
    windows = {rule["labels"]["window"] for rule in recorded if rule["record"] == "kpi:messages:sum"}
    assert windows == {"1h", "6h", "24h", "7d"}


@pytest.mark.parametrize("panel", [p for _, p in model.panels()], ids=[name for name, _ in model.panels()])
def test_legends_and_columns_show_labels_that_the_query_keeps(panel: Json) -> None:
    targets = panel.get("targets", [])
    for target in targets:
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        assert wanted <= _kept(target["expr"]), target["expr"]
    if panel["type"] == "table":
        values = {f"Value #{target['refId']}" for target in targets}
        kept = {label for target in targets for label in _kept(target["expr"])}
        columns = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert columns <= values | kept


def test_default_escaping_is_never_used_for_label_values() -> None:
    for where, expr in EXPRESSIONS:
        assert not re.search(r'"\$\{?(persona|journey)', expr), where


def _kept(expr: str) -> set[str]:
    plain = model.interpolate(expr, PLAIN)
    labels = {label for selector in _selectors(plain) for label in SERIES[selector.name]}
    return labels | _labels_named(plain) | _made(plain)


def _made(plain: str) -> set[str]:
    """Labels that count_values and label_replace make."""
    counted = re.findall(r'count_values by \(\w+\) \("(\w+)"', plain)
    return {*counted, *re.findall(r', "(\w+)", "[^"]*", "\w*", "[^"]*"\)', plain)}
