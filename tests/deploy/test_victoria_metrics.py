"""A distributed engine has the same KPI: Prometheus evaluates, VictoriaMetrics gets a copy of all series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from driftback import Recorder
from driftback_server.stack.components import ensure
from driftback_server.stack.ports import LOOPBACK
from tests.support.processes import process
from tests.support.stacks import RunningStack, answers, free_port, stack, wait_for

pytestmark = pytest.mark.end_to_end

KPIS = (
    '{__name__=~"kpi:(messages_total|scoped_messages_total|out_of_scope_total|llm_errors_total|'
    'out_of_scope_rate|llm_error_rate|p95_latency_ms)"}'
)
PERSONAS = ("concierge", 'odd "name" & 100% \\ 日本')
MESSAGES = 300

Values = dict[tuple[tuple[str, str], ...], float]


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("victoria")
    url = f"http://{LOOPBACK}:{free_port()}"
    command = [
        ensure(["victoria-metrics"])["victoria-metrics"],
        f"-storageDataPath={folder / 'data'}",
        f"-httpListenAddr={url.removeprefix('http://')}",
        # By default an answer is 30 s old.
        "-search.latencyOffset=0s",
    ]
    with process(command, folder / "log", lambda: answers(f"{url}/health")):
        yield url


@pytest.fixture(scope="module")
def running(victoria: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    state: Path = tmp_path_factory.mktemp("engine") / "state"
    clock = ("--scrape-interval", "1s", "--evaluation-interval", "2s")
    with stack(state, *clock, "--remote-write", f"{victoria}/api/v1/write") as started:
        yield started


def _kpis(url: str) -> Values:
    answer = requests.get(f"{url}/api/v1/query", params={"query": KPIS, "nocache": "1"}, timeout=10)
    answer.raise_for_status()
    return {
        tuple(sorted(sample["metric"].items())): float(sample["value"][1])
        for sample in answer.json()["data"]["result"]
    }


def test_the_engine_answers_the_same_kpi(running: RunningStack, victoria: str) -> None:
    recorder = Recorder(running.url("exporter"), token=running.info["ingest_token"])
    for persona in PERSONAS:
        for index in range(MESSAGES):
            recorder.record(
                journey="chat",
                persona=persona,
                config_version="1",
                latency_ms=200 + index,
                outcome="out_of_scope" if index % 30 == 0 else "ok",
            )
    assert recorder.flush(timeout=30)
    recorder.close()

    total = tuple(sorted({"__name__": "kpi:messages_total", "scope": "total", "window": "7d"}.items()))
    prometheus = running.url("prometheus")
    wait_for("all messages", 30, lambda: _kpis(prometheus).get(total) == len(PERSONAS) * MESSAGES)
    # They come in several requests, in seconds. VictoriaMetrics keeps decimals of 15 digits.
    wait_for("every KPI", 60, lambda: _kpis(victoria) == pytest.approx(_kpis(prometheus), rel=1e-12))
    found = _kpis(victoria)
    personas = {dict(labels).get("persona") for labels in found}
    assert set(PERSONAS) <= personas
    # Four windows; per window 4 counts and 3 rates in the total, and as much for each scope and persona.
    assert len(found) == 4 * 7 * (1 + 1 + len(PERSONAS) + len(PERSONAS))
