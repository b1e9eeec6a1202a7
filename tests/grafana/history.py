"""A past for Prometheus: blocks in which persona conversations went on for eight days before a test.

Chat version 1 of every persona had 100 messages in every five hours, until two hours ago. What the rules
would have recorded then stands beside it, where they read it: last known values, and the KPI of past windows.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from driftback import contract
from driftback_server.stack.components import ensure
from exporter import catalogue

HOUR = 3600
DAYS = 8
CYCLE = 5 * HOUR
"""100 messages are spread over this time: 3 out of scope, 2 timeouts, latencies of 8, 16, … 800 ms."""

CYCLES = (DAYS * 24 * HOUR - 2 * HOUR) // CYCLE
WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "24h": 24 * HOUR, "7d": 7 * 24 * HOUR}
LATENCIES = [n * 0.008 for n in range(1, 101)]
BOUNDS = {str(bound): bound for bound in contract.LATENCY_BOUNDS} | {"+Inf": float("inf")}

PREVIOUS = {"messages": 80, "scoped_messages": 80, "out_of_scope": 4, "llm_errors": 2}
"""KPI of the window before the one that ends now."""

Points = Iterator[tuple[float, float]]
Series = tuple[str, dict[str, str], Points]


def write_blocks(data: Path, personas: tuple[str, ...], in_full: str, now: float) -> None:
    """Blocks up to `now`. One persona also has its raw counters, every five minutes, for all the time."""
    text = data.parent / "history.openmetrics"
    with text.open("w", encoding="utf-8") as file:
        for name, labels, points in _series(personas, in_full, now):
            described = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
            file.writelines(f"{name}{{{described}}} {value} {time:.3f}\n" for time, value in points)
        file.write("# EOF\n")
    promtool = str(ensure(["promtool"])["promtool"])
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    subprocess.run(command, check=True, capture_output=True)


def _series(personas: tuple[str, ...], in_full: str, now: float) -> Iterator[Series]:
    start = now - DAYS * 24 * HOUR
    sparse = [start + n * CYCLE for n in range(CYCLES + 1)]
    dense = [start + n * 300 for n in range(DAYS * 24 * 12)]
    for persona in personas:
        kept = {"journey": "chat", "persona": persona}
        identity = {"journal": "journal-1", **kept, "config_version": "1"}
        for name, labels, per_cycle in _counters():
            recorded = {key: value for key, value in labels.items() if key != "reason"}
            if labels.get("reason") in (None, "timeout"):
                yield f"kpi:{name}:last", identity | recorded, _counts(sparse, start, per_cycle)
            if persona == in_full:
                raw = identity | labels | {"job": "exporter", "instance": "exporter:9810"}
                yield _RAW[name], raw, _counts(dense, start, per_cycle)
        for window, seconds in WINDOWS.items():
            before = [now - seconds + minute * 60 for minute in range(-1, 11)]
            for name, value in PREVIOUS.items():
                labels = kept | {"scope": "persona", "window": window}
                yield f"kpi:{name}_total", labels, ((time, value) for time in before)
            for bound, limit in BOUNDS.items():
                labels = kept | {"config_version": "1", "window": window, "le": bound}
                count = sum(latency <= limit for latency in LATENCIES[:80])
                yield "kpi:latency_bucket:sum", labels, ((time, count) for time in before)
    up = [start + n * 240 for n in range(DAYS * 24 * 15)]
    yield "up", {"job": "exporter", "instance": "exporter:9810"}, ((time, 1) for time in up)
    full_hours = [now // HOUR * HOUR - n * HOUR for n in range(DAYS * 24 - 1, 0, -1)]
    yield "kpi:coverage_ratio", {"window": "1h"}, ((time, 1) for time in full_hours)


_RAW = {
    "messages": catalogue.MESSAGES.name,
    "out_of_scope": catalogue.OUT_OF_SCOPE.name,
    "llm_errors": catalogue.LLM_ERRORS.name,
    "latency_bucket": f"{catalogue.LATENCY.name}_bucket",
}


def _counters() -> Iterator[tuple[str, dict[str, str], int]]:
    """(recorded name, further labels, count per cycle)."""
    yield "messages", {}, 100
    yield "out_of_scope", {}, 3
    for reason in contract.REASONS:
        yield "llm_errors", {"reason": reason}, 2 if reason == "timeout" else 0
    for bound, limit in BOUNDS.items():
        yield "latency_bucket", {"le": bound}, sum(latency <= limit for latency in LATENCIES)


def _counts(times: list[float], start: float, per_cycle: int) -> Points:
    return ((time, per_cycle * min(int((time - start) / CYCLE), CYCLES)) for time in times)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
