"""The exposition is compared with prometheus_client's own, byte for byte, and once as a whole text."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from driftback import contract
from exporter import catalogue
from exporter.catalogue import Metric
from exporter.metrics.render import LABEL_SETS_PER_CHUNK, View, render
from exporter.storage.clock import Moment
from exporter.storage.series import (
    ERRORS,
    LATENCY,
    MESSAGES,
    OUT_OF_SCOPE,
    TOKENS,
    TTFT,
    LabelSet,
    SeriesTable,
)
from exporter.wire import HistogramDelta, SeriesDelta, TokensDelta
from tests.exporter.running import Running, series

TIME = 1_700_000_000.123456
LABEL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
COUNT = st.one_of(st.integers(0, 30), st.integers(999_998, 10**12))
HISTOGRAM = st.builds(
    HistogramDelta,
    sum=st.floats(0, 1e9),
    buckets=st.dictionaries(st.integers(0, contract.BUCKETS - 1), COUNT, max_size=6),
)
DELTA = st.builds(
    SeriesDelta,
    journey=st.sampled_from(catalogue.JOURNEYS),
    persona=LABEL,
    config_version=LABEL,
    messages=COUNT,
    out_of_scope=COUNT,
    llm_errors=st.dictionaries(st.sampled_from([*contract.REASONS, 'a "50%" \\ reason\n', "%d.0"]), COUNT),
    latency=HISTOGRAM,
    ttft=st.none() | HISTOGRAM,
    tokens=st.none() | st.builds(TokensDelta, input=COUNT, output=COUNT),
)


def view_of(table: SeriesTable) -> View:
    return View(tuple(table), table.reasons, catalogue.OUT_OF_SCOPE_JOURNEYS)


def labels_of(label_set: LabelSet, journal: str) -> dict[str, str]:
    return {**dict(zip(contract.LABEL_SET, label_set.key, strict=True)), "journal": journal}


def same_in_prometheus_client(table: SeriesTable) -> CollectorRegistry:
    """A registry with the same metrics, children in the same order, and the same values."""
    registry = CollectorRegistry()

    def counter(metric: Metric, counts: Callable[[LabelSet], list[tuple[dict[str, str], int]]]) -> None:
        family = Counter(metric.name, metric.help, metric.labels, registry=registry)
        for label_set in table:
            for extra, count in counts(label_set):
                child = family.labels(**labels_of(label_set, table.journal), **extra)
                child.inc(count)

    def histogram(
        metric: Metric, counts: list[tuple[LabelSet, list[int], float]], bounds: Sequence[float]
    ) -> None:
        family = Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=bounds)
        for label_set, buckets, total in counts:
            child = family.labels(**labels_of(label_set, table.journal))
            child._sum.set(total)
            for bound, count in zip((*contract.LATENCY_BOUNDS, math.inf), buckets, strict=True):
                child._buckets[bisect_left(bounds, bound)].inc(count)

    def scoped(s: LabelSet) -> list[tuple[dict[str, str], int]]:
        return [({}, s.counts[OUT_OF_SCOPE])] if s.key[0] == "chat" or s.counts[OUT_OF_SCOPE] else []

    counter(catalogue.MESSAGES, lambda s: [({}, s.counts[MESSAGES])])
    counter(catalogue.OUT_OF_SCOPE, scoped)
    counter(
        catalogue.LLM_ERRORS,
        lambda s: [({"reason": r}, n) for r, n in zip(table.reasons, s.counts[ERRORS], strict=True)],
    )
    latency = [(s, s.counts[LATENCY], s.latency_sum) for s in table]
    ttft = [(s, s.counts[TTFT], s.ttft_sum) for s in table if sum(s.counts[TTFT])]
    histogram(catalogue.LATENCY, latency, contract.LATENCY_BOUNDS)
    histogram(catalogue.TIME_TO_FIRST_TOKEN, ttft, catalogue.TTFT_BOUNDS)
    counter(
        catalogue.TOKENS,
        lambda s: [({"direction": d}, n) for d, n in zip(contract.DIRECTIONS, s.counts[TOKENS], strict=True)],
    )
    created = Gauge(
        catalogue.CREATED.name, catalogue.CREATED.help, catalogue.CREATED.labels, registry=registry
    )
    for label_set in table:
        created.labels(**labels_of(label_set, table.journal)).set(label_set.created)
    return registry


def table_of(deltas: list[SeriesDelta]) -> SeriesTable:
    table = SeriesTable()
    table.journal = 'j"1'
    for number, delta in enumerate(deltas):
        table.add(delta, Moment(number, TIME + number))
    return table


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DELTA, max_size=5))
def test_text_is_what_prometheus_client_writes(deltas: list[SeriesDelta]) -> None:
    table = table_of(deltas)
    ours = "".join(render(view_of(table), openmetrics=False))
    assert ours == generate_latest(same_in_prometheus_client(table)).decode()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DELTA, max_size=5))
def test_openmetrics_is_what_prometheus_client_writes(deltas: list[SeriesDelta]) -> None:
    table = table_of(deltas)
    ours = "".join(render(view_of(table), openmetrics=True)) + "# EOF\n"
    theirs: bytes = generate_openmetrics(same_in_prometheus_client(table))  # type: ignore[no-untyped-call]
    assert ours == theirs.decode()


def test_a_chunk_holds_a_bounded_number_of_label_sets() -> None:
    count = 3 * LABEL_SETS_PER_CHUNK + 1
    table = table_of([SeriesDelta("chat", f"p{i}", "1") for i in range(count)])
    chunks = list(render(view_of(table), openmetrics=False))
    assert "".join(chunks) == generate_latest(same_in_prometheus_client(table)).decode()
    assert max(chunk.count("conversation_messages_total{") for chunk in chunks) == LABEL_SETS_PER_CHUNK


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
    ids=["text by default", "OpenMetrics when asked for"],
)
def test_the_format_is_negotiated(exporter: Running, accept: str, content_type: str) -> None:
    response = requests.get(exporter.url + "/metrics", headers={"Accept": accept}, timeout=10)
    assert response.headers["Content-Type"].startswith(content_type)
    assert response.text.endswith("# EOF\n") == ("openmetrics" in content_type)


def test_compressed_and_plain_are_the_same(exporter: Running) -> None:
    exporter.push(series(messages=3))
    plain = exporter.scrape(**{"Accept-Encoding": "identity"})
    assert exporter.scrape(**{"Accept-Encoding": "gzip"}) == plain
