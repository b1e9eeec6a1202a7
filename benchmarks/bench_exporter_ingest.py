"""Durable ingest of deltas beside a Pushgateway, on one core each, under the same load generator."""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

from benchmarks import servers
from benchmarks.row import Row, absolute, compare
from driftback.contract import LATENCY_BOUNDS
from exporter import catalogue

SERIES = 50
CONNECTIONS = 64
SECONDS = 2.0
ROUNDS = 3
PREPARED = 200
PREPARED_BYTES = 200 * 1024**2
"""Pushes per connection, and memory for all of them; a run ends when they are used up."""


def rows() -> Iterator[Row]:
    """Pushes per second against both ways to run a Pushgateway, and messages per second."""
    one, many, messages = [], [], []
    peers: dict[tuple[str, str], list[float]] = {}
    for run in range(1, ROUNDS + 1):
        one.append(_exporter([_delta(0, _seconds(20))], run))
        many.append(_exporter([_delta(n, _seconds(1)) for n in range(SERIES)], run))
        messages.append(_exporter([_delta(n, _seconds(20)) for n in range(SERIES)], run))
        for checked in ("", "--push.disable-consistency-check"):
            for kind, lines in (
                ("one", _one_label_set),
                ("many", _many_label_sets),
                ("plain", _counter_lines),
            ):
                peers.setdefault((kind, checked), []).append(_pushgateway(lines, checked))
    how = f"{CONNECTIONS} connections, {ROUNDS} runs of {SECONDS:g} s"
    one_note = "One label set: counters and a latency histogram, 50 series in both. " + how
    many_note = "50 label sets, each with counters and a latency histogram, the same in both. " + how
    plain_note = (
        "The same 50 label sets here, but 50 plain counters there: a fiftieth of what is counted here. "
        "Decoding and adding 50 label sets takes most of it. " + how
    )
    for name, note, kind, ours in (
        ("durable ingest, 50 series a push", one_note, "one", one),
        ("durable ingest, 50 label sets a push", many_note, "many", many),
        ("durable ingest, 50 label sets a push, vs 50 plain counters", plain_note, "plain", many),
    ):
        rate = median(ours)
        for checked, goal in (("", 10.0), ("--push.disable-consistency-check", 10.0)):
            peer = f"Pushgateway {checked}".strip()
            theirs = median(peers[kind, checked])
            yield compare(f"{name}: {peer}", rate, theirs, "pushes/s CPU", ">=", goal, note)
    rate = median(messages)
    yield absolute(
        "durable ingest, 20 messages per series and push", rate * SERIES * 20, "messages/s CPU", ">=", 2e6
    )


def _exporter(series: list[dict[str, Any]], run: int) -> float:
    with servers.exporter() as server:
        return _rate(server, servers.push_request(series, run))


def _rate(server: servers.Server, request: servers.Request) -> float:
    """Pushes per second of the server's CPU."""
    prepared = min(PREPARED, PREPARED_BYTES // CONNECTIONS // len(request(0, 0)))
    before = servers.cpu_seconds(server.pid)
    load = servers.load(server.port, CONNECTIONS, SECONDS, request, prepared=prepared)
    return len(load.latencies) / (servers.cpu_seconds(server.pid) - before)


def _pushgateway(lines: Callable[[int], Iterable[str]], option: str) -> float:
    with servers.pushgateway(*([option] if option else [])) as server:

        def request(connection: int, number: int) -> bytes:
            body = "".join(f"{line}\n" for line in lines(number))
            # Each connection is a service instance, and so a group of its own.
            return servers.post(f"/metrics/job/c{connection}", body.encode())

        return _rate(server, request)


def _counter_lines(number: int) -> Iterator[str]:
    for n in range(SERIES):
        yield f'{catalogue.MESSAGES.name}{{journey="chat",persona="persona-{n}",config_version="1"}} {number}'


def _one_label_set(number: int) -> Iterator[str]:
    return _label_set_lines(number, 1)


def _many_label_sets(number: int) -> Iterator[str]:
    return _label_set_lines(number, SERIES)


def _label_set_lines(number: int, label_sets: int) -> Iterator[str]:
    latency = catalogue.LATENCY.name
    every = [f'journey="chat",persona="persona-{n}",config_version="1"' for n in range(label_sets)]
    yield from (f"{catalogue.MESSAGES.name}{{{labels}}} {number}" for labels in every)
    yield from (f"{catalogue.OUT_OF_SCOPE.name}{{{labels}}} 0" for labels in every)
    yield f"# TYPE {latency} histogram"
    for labels in every:
        for bound in (*LATENCY_BOUNDS, "+Inf"):
            yield f'{latency}_bucket{{{labels},le="{bound}"}} {number}'
        yield f"{latency}_sum{{{labels}}} {number}.5"
        yield f"{latency}_count{{{labels}}} {number}"


def _seconds(messages: int) -> list[float]:
    source = random.Random(1)
    return [source.lognormvariate(0, 0.5) for _ in range(messages)]


def _delta(number: int, seconds: list[float]) -> dict[str, Any]:
    buckets: dict[str, int] = {}
    for value in seconds:
        index = str(bisect_left(LATENCY_BOUNDS, value))
        buckets[index] = buckets.get(index, 0) + 1
    return {
        "journey": "chat",
        "persona": f"persona-{number}",
        "config_version": "1",
        "messages": len(seconds),
        "latency": {"sum": sum(seconds), "buckets": buckets},
    }
