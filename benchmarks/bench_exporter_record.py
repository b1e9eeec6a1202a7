"""What a message costs its service: `record()` in the caller's thread, and the flush."""

import http.server
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median

import statsd
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.processes import resident
from benchmarks.row import Row, absolute, compare
from driftback import Recorder
from driftback.contract import LATENCY_BOUNDS
from driftback.recorder.buffer import Buffer
from driftback.recorder.sender import Sender

LABELS = ("journey", "persona", "config_version")
CALLS = 50_000
ROUNDS = 5
FLUSHED_SERIES = 50
FLUSHES = 40
THREADS, LABEL_SETS = 40, 500
NOWHERE = "http://127.0.0.1:9"  # refused at once: the background thread waits, as it does most of the time

_random = random.Random(7)
LATENCIES = [_random.lognormvariate(0, 0.5) for _ in range(1000)]

Emit = Callable[[float], None]
"""Counts one message of so many seconds."""


def rows() -> Iterator[Row]:
    """Rows for the caller's thread, four threads, and the flush."""
    recorder = Recorder(NOWHERE, token="x" * 16, flush_interval=3600)
    peers = {
        "prometheus_client labels().inc() + labels().observe()": (_prometheus(), 0.12),
        "OpenTelemetry SDK counter + histogram": (_opentelemetry(), 0.05),
        "statsd UDP": (_statsd(), 0.07),
    }
    own = _recorder(recorder)
    times: dict[str, list[float]] = {name: [] for name in peers}
    ours = []
    for _ in range(ROUNDS):
        ours.append(_one_thread(own))
        for name, (emit, _) in peers.items():
            times[name].append(_one_thread(emit))
    for name, (_, goal) in peers.items():
        yield compare(f"record() vs {name}", median(ours), median(times[name]), "us CPU/message", "<=", goal)
    yield from _four_threads(own, peers["prometheus_client labels().inc() + labels().observe()"][0])
    recorder.close(timeout=0.1)
    yield from _flush()
    yield _memory()


def _recorder(recorder: Recorder) -> Emit:
    def emit(seconds: float) -> None:
        recorder.record(
            journey="chat", persona="concierge", config_version="3", latency_ms=seconds * 1000.0, outcome="ok"
        )

    return emit


def _prometheus() -> Emit:
    registry = CollectorRegistry()
    counter = Counter("messages", "m", LABELS, registry=registry)
    histogram = Histogram("latency", "l", LABELS, buckets=LATENCY_BOUNDS, registry=registry)

    def emit(seconds: float) -> None:
        counter.labels("chat", "concierge", "3").inc()
        histogram.labels("chat", "concierge", "3").observe(seconds)

    return emit


def _opentelemetry() -> Emit:
    meter = MeterProvider([InMemoryMetricReader()], views=[_view()], shutdown_on_exit=False).get_meter(
        "bench"
    )
    counter = meter.create_counter("messages")
    histogram = meter.create_histogram("latency", unit="s")

    def emit(seconds: float) -> None:
        labels = {"journey": "chat", "persona": "concierge", "config_version": "3"}
        counter.add(1, labels)
        histogram.record(seconds, labels)

    return emit


def _view() -> View:
    return View(
        instrument_name="latency", aggregation=ExplicitBucketHistogramAggregation(list(LATENCY_BOUNDS))
    )


def _statsd() -> Emit:
    client = statsd.StatsClient("127.0.0.1", 8125)

    def emit(seconds: float) -> None:
        client.incr("messages.chat.concierge.3")
        client.timing("latency.chat.concierge.3", seconds * 1000.0)

    return emit


def _one_thread(emit: Emit) -> float:
    """Microseconds per message, in CPU of the caller's thread: other work shares the machine."""
    emit(1.0)
    rounds = CALLS // len(LATENCIES)
    started = time.thread_time()
    for _ in range(rounds):
        for seconds in LATENCIES:
            emit(seconds)
    return (time.thread_time() - started) / CALLS * 1e6


def _four_threads(own: Emit, peer: Emit) -> Iterator[Row]:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_threads(own))
        theirs.append(_threads(peer))
    yield compare(
        "record() with 4 threads vs prometheus_client",
        median(cost for cost, _ in ours),
        median(cost for cost, _ in theirs),
        "us CPU/message",
        "<=",
        0.20,
    )
    yield compare(
        "record() with 4 threads, p99.9 of a call, vs prometheus_client",
        median(slowest for _, slowest in ours),
        median(slowest for _, slowest in theirs),
        "us",
        "<=",
        1.0,
    )


def _threads(emit: Emit) -> tuple[float, float]:
    """CPU of the process per message when 4 threads emit, and p99.9 of single calls, in microseconds."""

    def calls() -> None:
        for _ in range(CALLS // 4 // len(LATENCIES) + 1):
            for seconds in LATENCIES:
                emit(seconds)

    started = time.process_time()
    _run_in_threads(calls)
    cost = (time.process_time() - started) / (4 * (CALLS // 4 // len(LATENCIES) + 1) * len(LATENCIES)) * 1e6
    taken: list[list[float]] = []

    def timed_calls() -> None:
        mine = []
        for _ in range(10):
            for seconds in LATENCIES:
                before = time.perf_counter()
                emit(seconds)
                mine.append(time.perf_counter() - before)
        taken.append(mine)

    _run_in_threads(timed_calls)
    every = sorted(seconds for mine in taken for seconds in mine)
    return cost, every[int(len(every) * 0.999)] * 1e6


def _run_in_threads(target: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes what both clients send and says that all is well."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"data":{"duplicate":false,"journal":"bench"}}' if self.path == "/v1/push" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _flush() -> Iterator[Row]:
    """CPU of the process that flushes; the sink is another process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    port = server.server_address[1]
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.server_close()
    try:
        one, every, theirs = _flush_ours(port, 1), _flush_ours(port, FLUSHED_SERIES), _flush_otlp(port)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    for ours, changed, goal in ((one, "one", 0.1), (every, "all", 0.3)):
        yield compare(
            f"flush of {FLUSHED_SERIES} label sets, {changed} changed, vs OTLP/HTTP export",
            ours,
            theirs,
            "ms CPU/flush",
            "<=",
            goal,
            "What changed got one message since the last flush; the peer exports its counter and histogram.",
        )


def _flush_ours(port: int, changed: int) -> float:
    buffer = Buffer()
    sender = Sender([f"http://127.0.0.1:{port}"], "x" * 16, buffer)
    recorder = Recorder(NOWHERE, token="x" * 16, flush_interval=3600)
    recorder._buffer, recorder._local = buffer, buffer.local
    used = []
    for number in range(FLUSHES):
        for n in range(changed if number else FLUSHED_SERIES):
            recorder.record(
                journey="chat", persona=f"p{n}", config_version="1", latency_ms=1000.0 * LATENCIES[n]
            )
        before = time.process_time()
        if not sender.deliver():
            raise RuntimeError("the sink refused a flush")
        if number:
            used.append(time.process_time() - before)
    sender.close()
    return median(used) * 1e3


def _flush_otlp(port: int) -> float:
    exporter = OTLPMetricExporter(endpoint=f"http://127.0.0.1:{port}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], views=[_view()], shutdown_on_exit=False)
    meter = provider.get_meter("bench")
    counter, histogram = meter.create_counter("messages"), meter.create_histogram("latency", unit="s")
    used = []
    for number in range(FLUSHES):
        for n in range(FLUSHED_SERIES):
            labels = {"journey": "chat", "persona": f"p{n}", "config_version": "1"}
            counter.add(1, labels)
            histogram.record(LATENCIES[n], labels)
        before = time.process_time()
        provider.force_flush()
        if number:
            used.append(time.process_time() - before)
    provider.shutdown()
    return median(used) * 1e3


def _memory() -> Row:
    """What a process holds more after each of many threads counted each label set, and all was taken once."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(_grown()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        grown = float(pipe.read())
    os.waitpid(child, 0)
    name = f"memory of {THREADS} threads x {LABEL_SETS} label sets"
    return absolute(name, grown, "MiB", "<=", 40, "Growth of the resident set.")


def _grown() -> float:
    recorder = Recorder(NOWHERE, token="x" * 16, flush_interval=3600)
    begin, counted = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)

    def count() -> None:
        begin.wait()
        for n in range(LABEL_SETS):
            recorder.record(journey="chat", persona=f"p{n}", config_version="1", latency_ms=800.0)
        counted.wait()
        threading.Event().wait()

    for _ in range(THREADS):
        threading.Thread(target=count, daemon=True).start()
    before = resident(os.getpid())
    begin.wait()
    counted.wait()
    recorder._buffer.take()
    return (resident(os.getpid()) - before) / 2**20
