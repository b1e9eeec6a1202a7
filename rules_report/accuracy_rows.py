"""p95 against the exact one, and samples read per evaluation: the shipped expressions in real Prometheus."""

import bisect
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import yaml

from driftback import contract
from rules.build import RULES
from rules_report import prometheus as server
from rules_report.rows import Row

END = 1_700_000_000 // 7200 * 7200
"""When the backfilled data ends (unix seconds); long ago, so that nothing of it touches the head."""
SCRAPE_SECONDS = 15
DAYS = 8


def rows(prometheus: Path, promtool: Path, folder: Path, trials: int) -> Iterator[Row]:
    """p95 errors of this many random hours, and the samples that one evaluation reads."""
    exact, lines = _trials(trials)
    with _backfilled(prometheus, promtool, folder, [*lines, *_history()]) as url:
        for size, goal in ((1_000, 5.0), (5_000, 2.5)):
            errors = _p95_errors(url, size, exact)
            yield Row(f"p95 error at n = {size}", float(np.percentile(errors, 95)), "%", "most", goal)
        read = {window: _samples(url, _rule("kpi:messages:sum", window)) for window in ("1h", "7d")}
        naive = _samples(url, "increase(conversation_messages_total[7d])")
        yield Row("samples read at 7d against increase(x[7d])", read["7d"] / naive, "ratio", "most", 1 / 40)
        yield Row("samples read at 7d against 1h", read["7d"] / read["1h"], "ratio", "most", 4)


def _rule(record: str, window: str = "", scope: str = "") -> str:
    document = yaml.safe_load((RULES / "recording.yml").read_text(encoding="utf-8"))
    for rule in document["groups"][0]["rules"]:
        labels = rule.get("labels", {})
        if (
            rule["record"] == record
            and labels.get("window", "") == window
            and labels.get("scope", "") == scope
        ):
            return str(rule["expr"])
    raise LookupError(record)


def _trials(trials: int) -> tuple[dict[str, float], list[str]]:
    """Exact p95 in ms per trial, and its bucket counts; latencies are a mix of short and long answers."""
    rng = np.random.default_rng(1)
    exact, lines = {}, []
    for size in (1_000, 5_000):
        for trial in range(trials):
            persona = f"{size}-{trial}"
            long = rng.random(size) < 0.2
            median = rng.uniform(0.4, 3.0)
            seconds = np.where(
                long, rng.lognormal(np.log(median * 4), 0.5, size), rng.lognormal(np.log(median), 0.6, size)
            )
            ordered = np.sort(seconds).tolist()
            exact[persona] = 1000 * float(np.quantile(seconds, 0.95))
            for bound in (*contract.LATENCY_BOUNDS, float("inf")):
                count = bisect.bisect_right(ordered, bound)
                le = "+Inf" if bound == float("inf") else str(bound)
                labels = f'window="1h",journey="chat",persona="{persona}",config_version="1",le="{le}"'
                lines.append(f"kpi:latency_bucket:sum{{{labels}}} {count} {END}")
    return exact, lines


def _history() -> Iterator[str]:
    """A counter as scraped every 15 s, and what the rules record of it every minute, for eight days."""
    labels = 'journal="J",journey="chat",persona="p",config_version="1"'
    begin = END - DAYS * 86_400
    for at in range(begin, END + 1, SCRAPE_SECONDS):
        yield f"conversation_messages_total{{{labels}}} {at - begin} {at}"
    for name, value in (("messages:last", None), ("messages:first", 0), ("created:last", begin)):
        for at in range(begin, END + 1, 60):
            yield f"kpi:{name}{{{labels}}} {at - begin if value is None else value} {at}"


@contextmanager
def _backfilled(prometheus: Path, promtool: Path, folder: Path, lines: list[str]) -> Iterator[str]:
    text = folder / "history.om"
    text.write_text("\n".join(lines) + "\n# EOF\n", encoding="utf-8")
    data = folder / "data"
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", text, data], check=True, capture_output=True
    )
    (folder / "prometheus.yml").write_text("global: {}\n", encoding="utf-8")
    process, url = server.start(
        prometheus,
        folder / "prometheus.yml",
        data,
        folder / "prometheus.log",
        "--storage.tsdb.retention.time=100y",
    )
    try:
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _ask(url: str, expression: str) -> Any:
    data = {"query": expression, "time": str(END), "stats": "all"}
    answer = requests.post(url, data=data, timeout=60).json()
    if answer["status"] != "success":
        raise RuntimeError(json.dumps(answer))
    return answer["data"]


def _p95_errors(url: str, size: int, exact: dict[str, float]) -> list[float]:
    """Per cent, of every trial of this size."""
    errors = []
    for row in _ask(url, _rule("kpi:p95_latency_ms", scope="persona"))["result"]:
        persona = row["metric"]["persona"]
        if persona.startswith(f"{size}-"):
            errors.append(100 * abs(float(row["value"][1]) / exact[persona] - 1))
    return errors


def _samples(url: str, expression: str) -> int:
    return int(_ask(url, expression)["stats"]["samples"]["totalQueryableSamples"])
