"""Print what a persona and version cost: series, samples, memory, disk, rule evaluation. `make capacity`.

Two sizes are measured in one run each, on a fresh stack, so that the cost of a label set is their difference.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from exporter.client import Recorder
from tests.support.stacks import RunningStack, stack, wait_for

SIZES = (5, 25)
"""Chat personas with one version each."""
MESSAGES = 200_000
EVALUATIONS = 6
QUERIES = {
    "series of the exporter": 'count({job="exporter",journal!=""})',
    "samples a scrape": 'scrape_samples_scraped{job="exporter"}',
    "recorded series": 'count({__name__=~"kpi:.*"})',
    "head series": "prometheus_tsdb_head_series",
    "Prometheus memory, MiB": 'process_resident_memory_bytes{job="prometheus"} / 1048576',
    "rule evaluation, ms": "1000 * sum(prometheus_rule_group_last_duration_seconds)",
}


def _value(prometheus: str, query: str) -> float | None:
    answer = requests.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=30).json()
    result: list[Any] = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def _count(running: RunningStack, personas: int) -> None:
    recorder = Recorder(running.url("exporter"), token=running.info["ingest_token"])
    for index in range(MESSAGES):
        recorder.record(
            journey="chat",
            persona=f"persona-{index % personas}",
            config_version="1",
            latency_ms=100 + index % 5000,
            outcome="out_of_scope" if index % 30 == 0 else "ok",
        )
        if index % 20_000 == 0:
            recorder.flush(timeout=10)
    if not recorder.flush(timeout=30):
        raise RuntimeError("the exporter did not take the messages")
    recorder.close()


def measure(personas: int) -> dict[str, float]:
    """The figures with that many label sets."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ("--scrape-interval", "1s", "--evaluation-interval", "3s")
        with stack(Path(folder) / "state", *clock) as running:
            prometheus = running.url("prometheus")
            _count(running, personas)
            total = 'kpi:messages_total{scope="total",window="7d"}'
            wait_for("all messages", 60, lambda: _value(prometheus, total) == MESSAGES)
            time.sleep(EVALUATIONS * 3)  # until every rule has seen the others' results
            found = {name: _value(prometheus, query) or 0.0 for name, query in QUERIES.items()}
            state = Path(running.info["state_dir"])
            size = sum(path.stat().st_size for path in state.rglob("exporter/*") if path.is_file())
            found["exporter's disk, bytes a million messages"] = size * 1e6 / MESSAGES
    return found


def main() -> int:
    """Prints a table."""
    small, large = (measure(size) for size in SIZES)
    sys.stdout.write(
        f"| figure | {SIZES[0]} label sets | {SIZES[1]} label sets | each more |\n|---|---|---|---|\n"
    )
    for name, value in large.items():
        each = (value - small[name]) / (SIZES[1] - SIZES[0])
        sys.stdout.write(f"| {name} | {small[name]:,.1f} | {value:,.1f} | {each:,.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
