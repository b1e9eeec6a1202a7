"""Real traces, replayed through the real exporter and Prometheus: the KPI equal what was sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.stacks import ROOT, RunningStack, stack, wait_for

pytestmark = pytest.mark.end_to_end

DATA = Path(os.environ.get("REPLAY_DATA", ROOT.parent / "shared" / "data"))
TRACES = {
    "chat": DATA / "azure_llm_2023_conv_first_half.csv",
    "guidance": DATA / "azure_llm_2023_code_first_half.csv",
}
SPEED = "60"
RATES = {"chat": ("--out-of-scope-rate", "0.03"), "guidance": ()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    absent = [str(path) for path in TRACES.values() if not path.exists()]
    if absent:
        pytest.skip(f"test data is absent: {', '.join(absent)}; set REPLAY_DATA")
    state = tmp_path_factory.mktemp("replay") / "state"
    with stack(state, "--scrape-interval", "2s", "--evaluation-interval", "5s") as started:
        yield started


@pytest.fixture(scope="module")
def sent(running: RunningStack) -> dict[str, Any]:
    """What `driftback replay` says that it sent, per journey; both run at once, as in production."""

    def replay(journey: str) -> Any:
        done = running.command(
            "replay", str(TRACES[journey]), "--journey", journey, *RATES[journey], "--speed", SPEED, "--json"
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor() as pool:
        return dict(zip(TRACES, pool.map(replay, TRACES), strict=True))


def _kpi(running: RunningStack, name: str, journey: str) -> float | None:
    expression = f'{name}{{window="1h",scope="journey",journey="{journey}"}}'
    answer = requests.get(
        running.url("prometheus") + "/api/v1/query", params={"query": expression}, timeout=10
    ).json()
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


@pytest.mark.parametrize("journey", TRACES)
def test_the_kpi_equal_what_was_sent(running: RunningStack, sent: dict[str, Any], journey: str) -> None:
    truth = sent[journey]
    assert truth["messages_total"] > 4000

    def becomes(name: str, value: Any) -> None:
        """Waits: an evaluation records one KPI after the other, and the question may come in its middle."""
        wait_for(
            f"{name} of {value} in {journey}", 30, lambda: _kpi(running, f"kpi:{name}", journey) == value
        )

    becomes("messages_total", truth["messages_total"])
    becomes("llm_error_rate", pytest.approx(truth["llm_error_rate"]))
    becomes("p95_latency_ms", pytest.approx(truth["p95_latency_ms"], rel=0.03))
    if journey == "chat":
        becomes("out_of_scope_rate", pytest.approx(truth["out_of_scope_rate"]))
