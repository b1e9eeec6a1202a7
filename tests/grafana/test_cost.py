"""What a dashboard costs Prometheus: samples read at the widest window, against the naive query.

The raw counters are five minutes apart here. With the committed scrape interval of 15 s the naive queries
read 20 times as many samples, the panels no more.
"""

import re

import pytest

from tests.grafana import live, model

WIDEST = {"window": "7d", "journey": ".*", "persona": "concierge"}
LIMIT = 1 / 20

_VERSION = "journey, persona, config_version"
_COUNTERS = {
    "messages_total": "conversation_messages_total{%s}",
    "scoped_messages_total": 'conversation_messages_total{journey="chat",%s}',
    "out_of_scope_total": "conversation_out_of_scope_total{%s}",
    "llm_errors_total": "conversation_llm_errors_total{%s}",
}
_BUCKETS = f"sum by (le, {_VERSION}) (increase(conversation_latency_seconds_bucket{{%s}}[7d]))"


def _increase(counter: str) -> str:
    return f"sum by ({_VERSION}) (increase({_COUNTERS[counter]}[7d]))"


NAIVE = {
    **{f"kpi:{name}": _increase(name) for name in _COUNTERS},
    "kpi:out_of_scope_rate": f"({_increase('out_of_scope_total')} / {_increase('scoped_messages_total')})",
    "kpi:llm_error_rate": f"({_increase('llm_errors_total')} / {_increase('messages_total')})",
    "kpi:latency_bucket:sum": _BUCKETS,
    "kpi:p95_latency_ms": f"histogram_quantile(0.95, {_BUCKETS})",
    "kpi:coverage_ratio": 'avg_over_time(up{job="exporter"}[7d])',
}
"""What a panel would ask without the recording rules; `%s` stands for the selection."""

NAIVE_PANELS = {
    "driftback-persona: LLM errors by reason A": (
        'sum by (reason) (increase(conversation_llm_errors_total{persona="concierge"}[7d]))'
    ),
}
"""The same for panels that read raw counters themselves."""

EXPRESSIONS = [(where, expr) for where, expr in model.all_expressions() if "$window" in expr]


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_panel_reads_a_twentieth_of_the_naive_query_at_7d(
    prometheus: live.Prometheus, where: str, expr: str
) -> None:
    mine = model.interpolate(expr, WIDEST)
    naive = NAIVE_PANELS.get(where) or _naive(mine)
    assert naive != mine
    read, naive_read = prometheus.samples_read(mine), prometheus.samples_read(naive)
    assert 0 < read <= LIMIT * naive_read, f"{read} of {naive_read}"


def test_the_naive_queries_give_the_same_numbers(prometheus: live.Prometheus) -> None:
    """Within what `increase` extrapolates: else the comparison would be with another question."""
    recorded = 'sum(kpi:messages_total{scope="persona",window="7d",journey="chat",persona="concierge"})'
    ((mine,), (naive,)) = (prometheus.still(expr) for expr in (recorded, _naive(recorded)))
    assert float(naive["value"][1]) == pytest.approx(float(mine["value"][1]), rel=0.1)


WINDOWLESS = {
    "kpi:drift:evidence": "one recorded number per serving version",
    "kpi:drift:since": "the same",
    "kpi:drift:events_1h": "the same",
    "kpi:drift:expected_1h": "the same",
    "kpi:version:z": "the same",
    "kpi:messages:recent": "the last two minutes",
    "kpi:messages_total": "the values of the variables: one recorded window",
}
"""Recorded series that panels read at no window, and why their cost does not grow with it."""


def test_every_other_expression_costs_the_same_at_every_window() -> None:
    others = [expr for _, expr in model.all_expressions() if "$window" not in expr]
    assert {name for expr in others for name in re.findall(r"kpi:[\w:]+", expr)} == WINDOWLESS.keys()
    assert not [expr for expr in others if re.search(r"\[(?!5m|15m|1d|\$__range|\$__rate_interval)", expr)]


def _naive(expr: str) -> str:
    """The expression with every recorded series replaced by what it stands for."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in NAIVE:
            return match[0]
        kept = [m for m in match[2].split(",") if not re.match(r"scope|window", m)]
        naive = NAIVE[match[1]].replace("%s", ",".join(kept))
        return naive if not match[3] else re.sub(r"\[7d\]", f"[7d]{match[3]}", naive)

    return re.sub(r"(kpi:[\w:]+)\{([^}]*)\}( offset 7d)?", replaced, expr)
