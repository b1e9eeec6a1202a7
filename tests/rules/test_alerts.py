"""Every alert of the contract exists, leads somewhere, and is tested both quiet and firing."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.rules.files import (
    RULE_FILES,
    RUNBOOKS,
    TEST_FILES,
    Rule,
    alerts,
    duration,
    load,
    runbook_queries,
    selectors,
)

VERSION_ALERTS = {"OutOfScopeDrift", "LlmErrorDrift", "LatencyDrift", "ConfigVersionRegression"}
PIPELINE_ALERTS = {
    "ExporterDown",
    "ExporterReloadFailed",
    "ExporterStateLost",
    "ConversationSilence",
    "ObservationsRejected",
    "AuditWriteFailing",
    "ConfigWithheld",
    "RollbackFailed",
    "ConfigRollbackDown",
    "KpiInconsistent",
    "RuleEvaluationFailing",
    "Watchdog",
}
ALWAYS_FIRING = {"Watchdog"}
ODD_PERSONA = 'Zoë & "Co" 50%/天 a+b'

COMMON = {"summary", "description", "runbook_url", "dashboard_url"}
OF_A_VERSION = COMMON | {"rollback_url", "__dashboardUid__", "__panelId__"}

Case = tuple[str, Rule]
CASES: list[Case] = [
    (" ".join([rule["alert"], rule["labels"]["severity"], rule["labels"].get("kpi", "")]).strip(), rule)
    for rule in alerts()
]
each_alert = pytest.mark.parametrize("rule", [rule for _, rule in CASES], ids=[name for name, _ in CASES])


def test_the_alerts_are_those_of_the_contract() -> None:
    assert {rule["alert"] for rule in alerts()} == VERSION_ALERTS | PIPELINE_ALERTS


def test_no_two_rules_give_the_same_alert() -> None:
    assert len({name for name, _ in CASES}) == len(CASES)


@each_alert
def test_severity_is_one_of_the_contract(rule: Rule) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket", "none"}


@each_alert
def test_annotations_are_complete(rule: Rule) -> None:
    expected = OF_A_VERSION if rule["alert"] in VERSION_ALERTS else COMMON
    assert set(rule["annotations"]) == expected
    assert all(text.strip() for text in rule["annotations"].values())


@each_alert
def test_runbook_url_is_static_and_leads_to_a_runbook(rule: Rule) -> None:
    base, _, name = rule["annotations"]["runbook_url"].rpartition("/")
    assert base == "https://github.com/driftback/driftback/blob/main/rules/runbooks"
    assert name == f"{rule['alert']}.md"
    assert (RUNBOOKS / name).is_file()


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("alert", sorted(VERSION_ALERTS | PIPELINE_ALERTS))
def test_runbook_says_what_to_look_at_and_what_to_do(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [f"# {alert}", "## Meaning", "## First checks", "## Action", "## Silence"]
    queries = runbook_queries(alert)
    assert queries
    for query in queries:
        assert list(selectors(query)), query


def _tested(rule: Rule) -> list[tuple[timedelta, timedelta, bool]]:
    """(time, interval between evaluations, does it fire) of the promtool tests of exactly this rule."""
    found = []
    for path in TEST_FILES:
        document = load(path)
        for group in document["tests"]:
            for case in group.get("alert_rule_test", []):
                if case["alertname"] == rule["alert"]:
                    fires = any(_gives(rule, alert["exp_labels"]) for alert in case["exp_alerts"])
                    interval = duration(document["evaluation_interval"])
                    found.append((duration(case["eval_time"]), interval, fires))
    return found


def _gives(rule: Rule, labels: dict[str, Any]) -> bool:
    return all(labels.get(name) == value for name, value in rule["labels"].items())


@each_alert
def test_promtool_tests_show_it_firing(rule: Rule) -> None:
    assert any(fires for _, _, fires in _tested(rule))


@each_alert
def test_promtool_tests_show_it_quiet_one_evaluation_before(rule: Rule) -> None:
    if rule["alert"] in ALWAYS_FIRING:
        assert rule["expr"] == "vector(1)"
        return
    tested = _tested(rule)
    quiet = {time for time, _, fires in tested if not fires}
    assert any(time - interval in quiet for time, interval, fires in tested if fires)


@each_alert
def test_promtool_tests_expect_every_annotation(rule: Rule) -> None:
    expected = [alert.get("exp_annotations", {}) for alert in _expected(rule)]
    assert expected
    assert all(set(annotations) == set(rule["annotations"]) for annotations in expected)


@each_alert
def test_promtool_tests_give_the_persona_an_odd_name(rule: Rule) -> None:
    """Where it is part of a text or a URL: quotes, spaces, a plus, a slash and letters of other scripts."""
    if not any("$labels.persona" in text for text in rule["annotations"].values()):
        return
    odd = [alert for alert in _expected(rule) if alert["exp_labels"]["persona"] == ODD_PERSONA]
    assert odd
    for alert in odd:
        assert ODD_PERSONA in alert["exp_annotations"]["summary"]
        for name, template in rule["annotations"].items():
            if name.endswith("_url") and "$labels.persona" in template:
                assert quote(ODD_PERSONA, safe="") in alert["exp_annotations"][name]


def _expected(rule: Rule) -> list[dict[str, Any]]:
    """What the promtool tests expect of exactly this rule while it fires."""
    return [
        alert
        for path in TEST_FILES
        for group in load(path)["tests"]
        for case in group.get("alert_rule_test", [])
        for alert in case["exp_alerts"]
        if case["alertname"] == rule["alert"] and _gives(rule, alert["exp_labels"])
    ]


def test_failing_rules_are_those_of_these_files() -> None:
    """In a shared Prometheus nobody is paged for the rules of others."""
    groups = {group["name"] for path in RULE_FILES for group in load(path)["groups"]}
    (rule,) = [rule for rule in alerts() if rule["alert"] == "RuleEvaluationFailing"]
    for expression in (rule["expr"], *runbook_queries("RuleEvaluationFailing")):
        patterns = re.findall(r'rule_group=~"\.\*;\((\S+)\)"', expression)
        assert len(patterns) == expression.count("prometheus_rule_") > 0
        assert all(set(pattern.split("|")) == groups for pattern in patterns)
