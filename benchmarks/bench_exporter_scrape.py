"""A scrape: its CPU, what pushes feel of it, and the memory of what it shows."""

import gc
import math
import random
import socket
import threading
import time
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from benchmarks import servers
from benchmarks.row import Row, compare
from driftback import contract
from exporter import catalogue
from exporter.catalogue import Metric
from exporter.metrics.render import View, render
from exporter.storage.clock import Moment
from exporter.storage.series import ERRORS, LATENCY, TOKENS, TTFT, SeriesTable
from exporter.wire import HistogramDelta, SeriesDelta, TokensDelta

ROUNDS = 5
PUSH_SECONDS = 3.0
PUSH_CONNECTIONS = 4


def rows() -> Iterator[Row]:
    """Rows for rendering, memory and the pushes during a scrape."""
    for lines in (10_000, 100_000):
        yield _rendering(lines)
    yield _memory()
    yield _pushes_during_scrapes()


def _filled(label_sets: int) -> SeriesTable:
    source = random.Random(3)
    table = SeriesTable()
    table.journal = "0123456789abcdef"
    for n in range(label_sets):
        table.add(_delta(n, source), Moment(0.0, 1_700_000_000.0))
    return table


def _delta(n: int, source: random.Random) -> SeriesDelta:
    counts = {bucket: source.randrange(1, 50) for bucket in range(contract.BUCKETS)}
    histogram = HistogramDelta(sum=source.random() * 1000, buckets=counts)
    messages = sum(counts.values())
    return SeriesDelta(
        "chat",
        f"persona-{n}",
        "1",
        messages=messages,
        llm_errors={"timeout": 2},
        latency=histogram,
        ttft=histogram,
        tokens=TokensDelta(100, 200),
    )


def _lines_of(table: SeriesTable) -> int:
    return "".join(render(_view(table), openmetrics=False)).count("\n")


def _view(table: SeriesTable) -> View:
    return View([label_set.copy() for label_set in table], table.reasons, catalogue.OUT_OF_SCOPE_JOURNEYS)


def _in_prometheus_client(table: SeriesTable) -> CollectorRegistry:
    """The counters and histograms of a table as children of prometheus_client, without `_created` as ours."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()

    def counter(metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=registry)

    def histogram(metric: Metric, bounds: Sequence[float]) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=bounds, registry=registry)

    counters = [counter(catalogue.MESSAGES), counter(catalogue.OUT_OF_SCOPE)]
    errors, tokens = counter(catalogue.LLM_ERRORS), counter(catalogue.TOKENS)
    histograms = [
        (histogram(metric, bounds), bounds, where)
        for metric, bounds, where in (
            (catalogue.LATENCY, contract.LATENCY_BOUNDS, LATENCY),
            (catalogue.TIME_TO_FIRST_TOKEN, catalogue.TTFT_BOUNDS, TTFT),
        )
    ]
    for label_set in table:
        labels = (table.journal, *label_set.key)
        for index, plain in enumerate(counters):
            plain.labels(*labels).inc(label_set.counts[index])
        for index, reason in enumerate(table.reasons, start=ERRORS.start):
            errors.labels(*labels, reason).inc(label_set.counts[index])
        for index, direction in enumerate(contract.DIRECTIONS, start=TOKENS.start):
            tokens.labels(*labels, direction).inc(label_set.counts[index])
        for family, bounds, where in histograms:
            child = family.labels(*labels)
            for bound, count in zip(
                (*contract.LATENCY_BOUNDS, math.inf), label_set.counts[where], strict=True
            ):
                child._buckets[bisect_left(bounds, bound)].inc(count)
            child._sum.inc(label_set.latency_sum)
    return registry


def _rendering(lines: int) -> Row:
    table = _filled(max(1, lines // (_lines_of(_filled(50)) // 50)))
    registry = _in_prometheus_client(table)

    def ours() -> object:
        return [chunk.encode() for chunk in render(_view(table), openmetrics=False)]

    def peer() -> object:
        return generate_latest(registry)

    own_times, peer_times = [], []
    for _ in range(ROUNDS):
        own_times.append(_cpu(ours))
        peer_times.append(_cpu(peer))
    own_lines = _lines_of(table)
    return compare(
        f"/metrics at {lines:,} lines vs generate_latest",
        median(own_times) / own_lines * 1e6,
        median(peer_times) / generate_latest(registry).count(b"\n") * 1e6,
        "us CPU/line",
        "<=",
        1 / 15,
        f"{own_lines:,} lines here; the copy of the counts that makes a scrape one moment is included.",
    )


def _cpu(call: Callable[[], object]) -> float:
    gc.collect()
    before = time.process_time()
    call()
    return time.process_time() - before


def _memory() -> Row:
    label_sets = 500
    table: list[object] = []
    ours = _allocated(lambda: table.append(_filled(label_sets)))
    filled = _filled(label_sets)
    theirs = _allocated(lambda: table.append(_in_prometheus_client(filled)))
    series = label_sets * (
        2 + len(contract.REASONS) + 2 + contract.BUCKETS + 2 + len(catalogue.TTFT_BOUNDS) + 3
    )
    return compare(
        "memory per series vs prometheus_client", ours / series, theirs / series, "bytes", "<=", 0.2
    )


def _allocated(make: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    make()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def _pushes_during_scrapes() -> Row:
    with servers.exporter() as (port, _):
        _fill(port, 1730)
        series: list[dict[str, object]] = [{"journey": "chat", "persona": "persona-0", "config_version": "1"}]
        quiet = servers.load(port, PUSH_CONNECTIONS, PUSH_SECONDS, servers.push_request(series, 1))
        stop = threading.Event()
        scraper = threading.Thread(target=_scrape_until, args=(port, stop))
        scraper.start()
        busy = servers.load(port, PUSH_CONNECTIONS, PUSH_SECONDS, servers.push_request(series, 2))
        stop.set()
        scraper.join()
    return compare(
        "POST p99 during 100k-line scrapes vs without",
        _p99(busy.latencies) * 1e3,
        _p99(quiet.latencies) * 1e3,
        "ms",
        "<=",
        3,
        f"{PUSH_CONNECTIONS} connections push all the time, one scrape follows the other.",
    )


def _fill(port: int, label_sets: int) -> None:
    """Make so many label sets known: 58 lines each."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for start in range(0, label_sets, 40):
            # Personas and versions stay within the default label policy.
            series: list[dict[str, object]] = [
                {"journey": "chat", "persona": f"persona-{n % 100}", "config_version": str(n // 100 + 1)}
                for n in range(start, min(start + 40, label_sets))
            ]
            connection.sendall(servers.push_request(series, 9)(0, start // 40))
            connection.recv(65536)


def _scrape_until(port: int, stop: threading.Event) -> None:
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(1 << 20):
                pass


def _p99(latencies: list[float]) -> float:
    return sorted(latencies)[int(len(latencies) * 0.99)]
