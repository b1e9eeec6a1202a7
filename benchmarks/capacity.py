"""Print what a persona and version cost: series, samples, memory, disk, rule evaluation. `make capacity`.

Three sizes are measured in one run, each on a fresh stack under traffic that touches every label set, so that
the cost of a label set is the slope from the smallest size to the largest.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from benchmarks.servers import free_port
from driftback import Recorder
from driftback_server.stack import components

SIZES = (5, 25, 100)
"""Chat personas with one version each."""
MESSAGES = 200_000
SECONDS = 120
"""Over which they are spread: 24 scrapes and 8 evaluations."""
PORT_OFFSET = 12_000
"""Keeps the stack away from one that runs at the usual ports."""
CLOCK = ("--scrape-interval", "5s", "--evaluation-interval", "15s")
QUERIES = {
    "series of the exporter": 'count({job="exporter",journal!=""})',
    "samples a scrape": 'scrape_samples_scraped{job="exporter"}',
    "recorded series": 'count({__name__=~"kpi:.*"})',
    "series in Prometheus' head": "prometheus_tsdb_head_series",
    "Prometheus' memory, MiB": 'process_resident_memory_bytes{job="prometheus"} / 1048576',
    "one evaluation of all rules, ms": "1000 * sum(prometheus_rule_group_last_duration_seconds)",
    "exporter's memory, MiB": 'process_resident_memory_bytes{job="exporter"} / 1048576',
}


def _value(prometheus: str, query: str) -> float | None:
    answer = requests.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=30).json()
    result: list[Any] = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


@contextmanager
def _stack(state_dir: Path) -> Iterator[dict[str, Any]]:
    """What `driftback up --json` says of a stack that is ready; the stack ends with the block."""
    command: list[str | Path] = [Path(sys.executable).with_name("driftback"), "up", "--json", "--no-grafana"]
    command += ["--state-dir", state_dir, "--port-offset", str(PORT_OFFSET), *CLOCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)


def _wait_for(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.5)


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).ok
    except requests.RequestException:
        return False


def _count(running: dict[str, Any], personas: int) -> None:
    recorder = Recorder(running["urls"]["exporter"], token=running["ingest_token"])
    begun = time.monotonic()
    for index in range(MESSAGES):
        recorder.record(
            journey="chat",
            persona=f"persona-{index % personas}",
            config_version="1",
            latency_ms=100 + index * 7 % 5000,
            outcome="out_of_scope" if index % 30 == 0 else "ok",
        )
        if index % 100 == 0:
            time.sleep(max(0.0, begun + SECONDS * index / MESSAGES - time.monotonic()))
    if not recorder.flush(timeout=30):
        raise RuntimeError("the exporter did not take the messages")
    recorder.close()


def _stored(data: Path) -> dict[str, float]:
    """What a block of everything in this TSDB takes on disk: made by a Prometheus that scrapes nothing."""
    (data.parent / "nothing.yml").write_text("{}", encoding="utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(components.ensure(["prometheus"])["prometheus"]),
        f"--config.file={data.parent / 'nothing.yml'}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--web.enable-admin-api",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for("Prometheus", 60, lambda: _is_ready(url))
        requests.post(f"{url}/api/v1/admin/tsdb/snapshot", timeout=60).raise_for_status()
    finally:
        process.terminate()
        process.wait(20)
    (meta,) = data.glob("snapshots/*/*/meta.json")
    stats = json.loads(meta.read_text())["stats"]
    chunks = sum(path.stat().st_size for path in meta.parent.glob("chunks/*"))
    index = (meta.parent / "index").stat().st_size
    return {
        "bytes a sample, in a block": chunks / stats["numSamples"],
        "bytes of index a series, in a block": index / stats["numSeries"],
    }


def measure(personas: int) -> dict[str, float]:
    """The figures with that many label sets."""
    with tempfile.TemporaryDirectory() as folder:
        with _stack(Path(folder) / "state") as running:
            prometheus = running["urls"]["prometheus"]
            _count(running, personas)
            total = 'kpi:messages_total{scope="total",window="7d"}'
            _wait_for("all messages", 120, lambda: _value(prometheus, total) == MESSAGES)
            found = {name: _value(prometheus, query) or 0.0 for name, query in QUERIES.items()}
            state = Path(running["state_dir"])
            size = sum(path.stat().st_size for path in state.rglob("exporter/*") if path.is_file())
            found["exporter's disk, MB a million messages"] = size / MESSAGES
        (wal,) = state.rglob("prometheus/wal")
        return found | _stored(wal.parent)


def main() -> int:
    """Prints a table."""
    measured = [measure(size) for size in SIZES]
    heads = " | ".join(f"{size} label sets" for size in SIZES)
    sys.stdout.write(f"| figure | {heads} | each more |\n|{'---|' * (len(SIZES) + 2)}\n")
    for name in measured[0]:
        values = [figures[name] for figures in measured]
        each = (values[-1] - values[0]) / (SIZES[-1] - SIZES[0])
        cells = " | ".join(f"{value:,.1f}" for value in values)
        sys.stdout.write(f"| {name} | {cells} | {each:,.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
