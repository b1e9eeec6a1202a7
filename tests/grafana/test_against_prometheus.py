"""Every expression of the dashboards, run by a real Prometheus with the real rules."""

import re

import pytest

from driftback import contract
from grafana.variables import DEFAULT_ROLLBACK_URL
from tests.grafana import live, model, tables

ALL = {"window": "1h", "journey": ".*", "persona": ".*"}


EXPRESSIONS = model.all_expressions()
cases = pytest.mark.parametrize(("where", "expr"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])


@cases
@pytest.mark.parametrize("window", ["1h", "7d"])
def test_expression_has_a_result(prometheus: live.Prometheus, where: str, expr: str, window: str) -> None:
    assert prometheus.wait_for_samples(model.interpolate(expr, ALL | {"window": window}), 1)


def finds_exactly(prometheus: live.Prometheus, where: str, expr: str, persona: str) -> None:
    samples = prometheus.wait_for_samples(model.interpolate(expr, ALL | {"persona": persona}), 1)
    # The list of personas to choose from does not depend on the chosen one; some alerts have no persona.
    if "variable persona" not in where:
        found = {sample["metric"].get("persona") for sample in samples}
        assert found - {None} <= {persona}


@cases
def test_expression_finds_exactly_the_chosen_persona(
    prometheus: live.Prometheus, where: str, expr: str
) -> None:
    finds_exactly(prometheus, where, expr, model.ODD_PERSONAS[0])


SELECTORS = {
    selector: (where, expr)
    for where, expr in EXPRESSIONS
    for selector in re.findall(r"\w+[=!~]+.\$\{persona[^`]*`", expr)
}
"""Each way in which an expression selects the persona, with one expression that does."""


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_an_odd_name_is_found_as_it_is(prometheus: live.Prometheus, persona: str) -> None:
    ways = ("persona=~`${persona:regex}`", "persona=~`${persona:regex}|`")
    assert sorted(SELECTORS) == sorted(ways)
    for where, expr in SELECTORS.values():
        finds_exactly(prometheus, where, expr, persona)


def test_kpi_and_state_of_one_persona(prometheus: live.Prometheus) -> None:
    stats = [panel for _, panel in model.panels() if panel["type"] == "stat" and len(panel["targets"]) == 3]
    shown = {}
    for panel in stats:
        for target in panel["targets"]:
            (sample,) = prometheus.still(model.interpolate(target["expr"], ALL | {"persona": "concierge"}))
            shown[panel["title"], target["refId"]] = float(sample["value"][1])
    assert shown == {
        ("Messages", "A"): 300,
        ("Messages", "B"): 0,
        ("Messages", "C"): 80,
        ("Out-of-scope rate", "A"): 33 / 200,
        ("Out-of-scope rate", "B"): 2,
        ("Out-of-scope rate", "C"): 4 / 80,
        ("LLM error rate", "A"): 6 / 300,
        ("LLM error rate", "B"): 1,
        ("LLM error rate", "C"): 2 / 80,
        ("p95 latency", "A"): pytest.approx(760, rel=0.02),
        ("p95 latency", "B"): 1,
        ("p95 latency", "C"): pytest.approx(760 * 0.8, rel=0.02),
    }


def test_a_persona_without_alerts_is_healthy_and_one_without_messages_is_not_judged(
    prometheus: live.Prometheus,
) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == "LLM error rate"]
    state = panel["targets"][1]["expr"].replace("LlmErrorDrift", "NoSuchAlert")
    (sample,) = prometheus.still(model.interpolate(state, ALL))
    assert sample["value"][1] == "0"
    few = re.sub(r">= (bool )?30\b", r">= \g<1>1e9", state)
    assert few != state
    (sample,) = prometheus.still(model.interpolate(few, ALL))
    assert sample["value"][1] == "-1"
    no_reference = re.sub(r"kpi:(drift:baseline|predecessor:messages)", "no_such", state)
    (sample,) = prometheus.still(model.interpolate(no_reference, ALL))
    assert sample["value"][1] == "-2"


@pytest.mark.parametrize("title", ["Messages", "Out-of-scope rate", "LLM error rate", "p95 latency"])
def test_nothing_is_healthy_while_rules_are_not_evaluated(prometheus: live.Prometheus, title: str) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == title]
    state = model.interpolate(panel["targets"][1]["expr"], ALL)
    (sample,) = prometheus.still(state, ahead=200)
    assert sample["value"][1] == "3"
    assert prometheus.still(state, ahead=400) == [], "shown as: state unknown"


@pytest.mark.parametrize("window", ["1h", "7d"])
def test_error_reasons_add_up_to_the_recorded_errors(prometheus: live.Prometheus, window: str) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == "LLM errors by reason"]
    values = ALL | {"persona": "concierge", "window": window}
    samples = prometheus.still(model.interpolate(panel["targets"][0]["expr"], values))
    recorded = f'sum(kpi:llm_errors_total{{scope="persona",window="{window}",persona="concierge"}})'
    (total,) = prometheus.still(recorded)
    reasons = {sample["metric"]["reason"]: float(sample["value"][1]) for sample in samples}
    assert reasons.keys() == set(contract.REASONS)
    assert reasons["timeout"] == sum(reasons.values()) == float(total["value"][1]) > 0


def test_traffic_and_processes_are_split_by_version(prometheus: live.Prometheus) -> None:
    shown = {}
    for title in ("Share of traffic per version", "Processes per version"):
        (panel,) = [panel for _, panel in model.panels() if panel["title"] == title]
        expr = model.interpolate(panel["targets"][0]["expr"], ALL | {"persona": "concierge"})
        samples = prometheus.still(expr)
        shown[title] = {s["metric"]["config_version"]: float(s["value"][1]) for s in samples}
    assert sum(shown["Share of traffic per version"].values()) == pytest.approx(1)
    assert shown["Share of traffic per version"].keys() == {"1", "2"}
    assert shown["Processes per version"] == {"1": 1, "2": 3}


def test_version_table_has_one_row_per_journey_and_version(prometheus: live.Prometheus) -> None:
    shown = {}
    for row in _rows(prometheus, "Versions", ALL | {"persona": "concierge"}):
        assert row["persona"] == "concierge"
        facts = {name.removeprefix("Value #"): row[name] for name in row if name.startswith("Value")}
        facts |= {name: row[name] for name in ("predecessor",) if name in row}
        assert facts.pop("D") > 0, "p95"
        shown[row["journey"], row["config_version"]] = facts
    assert shown == {
        ("chat", "1"): {"A": 100, "B": pytest.approx(0.03), "C": 0.02, "F": 1},
        ("chat", "2"): {"A": 100, "B": 0.3, "C": 0.02, "E": 1, "F": 3, "predecessor": "1"},
        ("guidance", "2"): {"A": 100, "C": 0.02, "E": 1, "F": 3, "predecessor": "1"},
    }


def test_every_judged_version_shows_its_evidence(prometheus: live.Prometheus) -> None:
    recorded = prometheus.still("kpi:drift:evidence")
    rows = _rows(prometheus, "Drifting personas", ALL)
    names = ("kpi", "journey", "persona", "config_version")
    shown = {tuple(row[name] for name in names): row["Value #A"] for row in rows if "Value #A" in row}
    assert shown.keys() == {tuple(sample["metric"][name] for name in names) for sample in recorded}
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert max(shown.values()) > 0
    assert {row["predecessor"] for row in rows if "Value #E" in row} == {"1"}


def test_active_versions_table_counts_processes_on_and_off_the_active_version(
    prometheus: live.Prometheus,
) -> None:
    (row,) = _rows(prometheus, "Active config versions", ALL | {"persona": "concierge"})
    assert row == {
        "persona": "concierge",
        "config_version": "2",
        "predecessor": "1",
        "Value #C": 3,
        "Value #D": 1,
    }


def test_rollback_links_lead_to_the_address_that_config_rollback_reports(prometheus: live.Prometheus) -> None:
    query = model.variables(model.dashboard("driftback-persona"))["rollback_url"]["query"]["query"]
    expr = model.variable_expression(query)
    assert [sample["metric"] for sample in prometheus.still(expr)] == [{"external_url": live.ROLLBACK_URL}]
    silent = expr.replace("config_rollback_info", "no_such_metric")
    assert [sample["metric"] for sample in prometheus.still(silent)] == [
        {"external_url": DEFAULT_ROLLBACK_URL}
    ]


def _rows(prometheus: live.Prometheus, title: str, values: dict[str, str]) -> list[tables.Row]:
    """The rows of a table as Grafana shows them."""
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == title]
    return tables.rows(panel, tables.answers(prometheus, panel, values))
