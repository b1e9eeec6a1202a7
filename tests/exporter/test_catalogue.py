"""The catalogue keeps the public names of the contract, and bounds that resolve a p95."""

from itertools import pairwise

import pytest

from driftback import contract, latency_bounds
from exporter import catalogue


def test_bounds_span_the_contract() -> None:
    assert (latency_bounds[0], latency_bounds[-1]) == (0.05, 120.0)
    assert len(latency_bounds) + 1 == contract.BUCKETS == 45


def test_each_bound_is_at_most_a_fifth_above_the_one_before() -> None:
    assert all(1 < b / a < 1.21 for a, b in pairwise(latency_bounds))


def test_the_time_to_first_token_is_exported_at_some_of_the_bounds() -> None:
    bounds = catalogue.TTFT_BOUNDS
    assert set(bounds) <= set(latency_bounds)
    assert (len(bounds), bounds[0], bounds[-1]) == (12, 0.05, 120.0)
    assert all(1 < b / a < 2.1 for a, b in pairwise(bounds[:-1]))


def test_public_names() -> None:
    assert [metric.name for metric in catalogue.CONVERSATION_METRICS + catalogue.SELF_METRICS] == [
        "conversation_messages_total",
        "conversation_out_of_scope_total",
        "conversation_llm_errors_total",
        "conversation_latency_seconds",
        "conversation_time_to_first_token_seconds",
        "conversation_tokens_total",
        "conversation_created_timestamp_seconds",
        "exporter_pushes_total",
        "exporter_rejected_total",
        "exporter_evicted_total",
        "exporter_client_dropped_total",
        "exporter_series",
        "exporter_series_limit",
        "exporter_policy_last_reload_successful",
        "exporter_journal_recoveries_total",
        "exporter_tokens_last_reload_successful",
        "exporter_clock_jumps_total",
        "exporter_build_info",
    ]


@pytest.mark.parametrize("metric", catalogue.CONVERSATION_METRICS, ids=lambda metric: metric.name)
def test_every_conversation_metric_has_the_common_labels(metric: catalogue.Metric) -> None:
    assert metric.labels[:4] == ("journal", "journey", "persona", "config_version")
