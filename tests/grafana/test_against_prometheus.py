"""Every expression of the dashboards, run by a real Prometheus with the real rules."""

from collections.abc import Iterator

import pytest

from grafana.variables import DEFAULT_ROLLBACK_URL
from tests.grafana import live, model

ALL = {"window": "1h", "journey": ".*", "persona": ".*"}

_NO_PAST = "drift is judged against the day before yesterday, which the test does not have"
_SELF = "the test's Prometheus does not scrape itself"
EMPTY = {
    "driftback-conversation: annotation Config changes": "no config changes during the test",
    "driftback-persona: annotation Config changes": "no config changes during the test",
    "driftback-pipeline: annotation Config changes": "no config changes during the test",
    "driftback-conversation: Drifting personas A": _NO_PAST,
    "driftback-conversation: Drifting personas B": _NO_PAST,
    "driftback-conversation: Drifting personas C": _NO_PAST,
    "driftback-conversation: Drifting personas D": _NO_PAST,
    "driftback-pipeline: Failed rule evaluations A": _SELF,
    "driftback-pipeline: Rule evaluation time A": _SELF,
}
"""Expressions without a result here, and why."""

COVERAGE = "driftback-pipeline: Coverage of the window A"
"""Has a result only when the test runs across a full minute or hour, at which coverage is measured."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Prometheus]:
    with live.prometheus(tmp_path_factory.mktemp("prometheus"), model.ODD_PERSONAS) as running:
        yield running


EXPRESSIONS = model.all_expressions()
cases = pytest.mark.parametrize(("where", "expr"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])


@cases
@pytest.mark.parametrize("window", ["1h", "7d"])
def test_expression_has_a_result(prometheus: live.Prometheus, where: str, expr: str, window: str) -> None:
    samples = prometheus.query(model.interpolate(expr, ALL | {"window": window}))
    if where != COVERAGE:
        assert bool(samples) is (where not in EMPTY), EMPTY.get(where)


@cases
@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_expression_finds_exactly_the_chosen_persona(
    prometheus: live.Prometheus, where: str, expr: str, persona: str
) -> None:
    samples = prometheus.query(model.interpolate(expr, ALL | {"persona": persona}))
    if where != COVERAGE:
        assert bool(samples) is (where not in EMPTY), EMPTY.get(where)
    # The list of personas to choose from does not depend on the chosen one; some alerts have no persona.
    if "variable persona" not in where:
        found = {sample["metric"].get("persona") for sample in samples}
        assert found - {None} <= {persona}


def test_kpi_and_state_of_one_persona(prometheus: live.Prometheus) -> None:
    stats = [panel for _, panel in model.panels() if panel["type"] == "stat" and len(panel["targets"]) == 2]
    shown = {}
    for panel in stats:
        for target in panel["targets"]:
            (sample,) = prometheus.query(model.interpolate(target["expr"], ALL | {"persona": "concierge"}))
            shown[panel["title"], target["refId"]] = float(sample["value"][1])
    assert shown == {
        ("Messages", "A"): 300,
        ("Messages", "B"): 0,
        ("Out-of-scope rate", "A"): 33 / 200,
        ("Out-of-scope rate", "B"): 2,
        ("LLM error rate", "A"): 6 / 300,
        ("LLM error rate", "B"): 1,
        ("p95 latency", "A"): pytest.approx(760, rel=0.02),
        ("p95 latency", "B"): 1,
    }


def test_a_persona_without_alerts_is_healthy_and_one_without_messages_is_not_judged(
    prometheus: live.Prometheus,
) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == "LLM error rate"]
    state = panel["targets"][1]["expr"].replace("LlmErrorDrift", "NoSuchAlert")
    (sample,) = prometheus.query(model.interpolate(state, ALL))
    assert sample["value"][1] == "0"
    few = state.replace(">= bool 30", f">= bool {10**9}")
    assert few != state
    (sample,) = prometheus.query(model.interpolate(few, ALL))
    assert sample["value"][1] == "-1"


def test_version_table_joins_into_one_row_per_journey_and_version(prometheus: live.Prometheus) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == "Versions"]
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for target in panel["targets"]:
        for sample in prometheus.query(model.interpolate(target["expr"], ALL | {"persona": "concierge"})):
            labels = sample["metric"]
            row = rows.setdefault((labels["journey"], labels["config_version"]), {})
            row[target["refId"]] = labels.get("predecessor", round(float(sample["value"][1]), 3))
    assert {key: {ref: row[ref] for ref in row if ref != "D"} for key, row in rows.items()} == {
        ("chat", "1"): {"A": 100, "B": 0.03, "C": 0.02, "F": 1},
        ("chat", "2"): {"A": 100, "B": 0.3, "C": 0.02, "E": 1, "F": 3, "G": "1"},
        ("guidance", "2"): {"A": 100, "C": 0.02, "E": 1, "F": 3, "G": "1"},
    }


def test_active_versions_table_counts_processes_on_and_off_the_active_version(
    prometheus: live.Prometheus,
) -> None:
    (panel,) = [panel for _, panel in model.panels() if panel["title"] == "Active config versions"]
    answers = [
        prometheus.query(model.interpolate(target["expr"], ALL | {"persona": "concierge"}))
        for target in panel["targets"]
    ]
    assert all(len(samples) == 1 for samples in answers)
    active, predecessor, on_it, on_others = (samples[0] for samples in answers)
    assert active["metric"]["config_version"] == "2"
    assert predecessor["metric"]["predecessor"] == "1"
    assert on_it["value"][1] == "3"
    assert on_others["value"][1] == "1"


def test_rollback_links_lead_to_the_address_that_config_rollback_reports(prometheus: live.Prometheus) -> None:
    query = model.variables(model.dashboard("driftback-persona"))["rollback_url"]["query"]["query"]
    expr = model.variable_expression(query)
    assert [sample["metric"] for sample in prometheus.query(expr)] == [{"external_url": live.ROLLBACK_URL}]
    silent = expr.replace("config_rollback_info", "no_such_metric")
    assert [sample["metric"] for sample in prometheus.query(silent)] == [
        {"external_url": DEFAULT_ROLLBACK_URL}
    ]
