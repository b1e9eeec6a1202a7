"""What vmalert makes of the rules: the same scrapes, evaluated by Prometheus and by vmalert, rule by rule.

A soak: vmalert lets a rule see what another one gave only at its next evaluation, so that a new value needs
as many evaluations as its chain of rules has links, and the longest has more than ten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from driftback import contract
from driftback_server.stack import components
from tests.rules.files import RULES
from tests.rules.live import Exporter, running, serve
from tests.support.monitoring import Prometheus
from tests.support.processes import process
from tests.support.stacks import answers, free_port, wait_for

pytestmark = pytest.mark.soak

CHAT_1 = ("chat", "concierge", "1")
CHAT_2 = ("chat", "concierge", "2")
GUIDANCE_1 = ("guidance", "coach", "1")
TOTAL = 'kpi:messages_total{scope="total",window="7d"}'

# They hold the time of the evaluation.
TIMES = {
    "kpi:drift:evaluation_timestamp_seconds",
    "kpi:evaluation_timestamp_seconds",
    "kpi:messages:recent_timestamp_seconds",
    "kpi:predecessor",
}
# What was added since the last evaluation: Prometheus sees this evaluation's value and the last one, vmalert
# the last one twice. On it rest the coverage, and the evidence of a drift, which therefore never grows.
NOT_BY_VMALERT = {"kpi:scraped_seconds", "kpi:coverage_ratio"}
Series = dict[tuple[tuple[str, str], ...], float]


def _recorded() -> set[str]:
    groups = [group for file in RULES.glob("*.yml") for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def _series(url: str, name: str) -> Series:
    query = {"query": f'{{__name__="{name}"}}', "nocache": "1"}
    found = requests.get(f"{url}/api/v1/query", params=query, timeout=10).json()["data"]["result"]
    return {tuple(sorted(sample["metric"].items())): float(sample["value"][1]) for sample in found}


def _sum(url: str, expression: str) -> float | None:
    answer = requests.get(f"{url}/api/v1/query", params={"query": expression, "nocache": "1"}, timeout=10)
    result = answer.json()["data"]["result"]
    return float(result[0]["value"][1]) if result else None


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def prometheus(exporter: Exporter, tmp_path: Path) -> Iterator[Prometheus]:
    with running(tmp_path, exporter) as asked:
        yield asked


@pytest.fixture
def victoria(exporter: Exporter, tmp_path: Path) -> Iterator[str]:
    """VictoriaMetrics that scrapes the exporter, and vmalert that evaluates the shipped rules on it."""
    programs = components.ensure(["victoria-metrics", "vmalert"])
    url, own = f"http://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with serve(exporter) as address:
        job = {"job_name": "exporter", "static_configs": [{"targets": [address]}]}
        scrape = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (tmp_path / "scrape.yml").write_text(yaml.safe_dump(scrape))
        database = [
            str(programs["victoria-metrics"]),
            f"-storageDataPath={tmp_path / 'victoria'}",
            f"-httpListenAddr={url.removeprefix('http://')}",
            "-search.latencyOffset=0s",
            f"-promscrape.config={tmp_path / 'scrape.yml'}",
        ]
        evaluator = [
            str(programs["vmalert"]),
            f"-rule={RULES}/*.yml",
            f"-datasource.url={url}",
            f"-remoteWrite.url={url}",
            f"-remoteRead.url={url}",
            # It wants one; nobody takes the alerts here, which are read as series.
            f"-notifier.url={url}",
            f"-httpListenAddr={own}",
            "-evaluationInterval=2s",
            "-remoteWrite.flushInterval=100ms",
        ]
        with (
            process(database, tmp_path / "victoria.log", lambda: answers(f"{url}/health")),
            process(evaluator, tmp_path / "vmalert.log", lambda: answers(f"http://{own}/health")),
        ):
            yield url


def test_what_vmalert_records(exporter: Exporter, prometheus: Prometheus, victoria: str) -> None:
    exporter.declare(CHAT_1)
    exporter.declare(GUIDANCE_1)
    for url in (prometheus.url, victoria):
        wait_for("all known at zero", 120, lambda url=url: _sum(url, TOTAL) == 0)  # type: ignore[misc]
    for _ in range(20):
        exporter.count(CHAT_1, 19, seconds=0.4)
        exporter.count(CHAT_1, 1, seconds=0.9, out_of_scope=1)
        exporter.count(GUIDANCE_1, 7, seconds=2.0, errors=1)
    exporter.predecessors["concierge", "2"] = "1"
    exporter.count(CHAT_2, 10, seconds=0.4)
    exporter.count(CHAT_2, 30, seconds=0.4, out_of_scope=30)
    # A message in every bucket: of equal shares each engine's `topk` takes another one.
    for labels in (CHAT_1, CHAT_2, GUIDANCE_1):
        for bound in contract.LATENCY_BOUNDS:
            exporter.count(labels, 1, seconds=bound)
    regression = 'ALERTS{alertstate="firing",alertname="ConfigVersionRegression"}'
    begun = time.monotonic()
    took = {}
    for name, url in (("Prometheus", prometheus.url), ("vmalert", victoria)):
        wait_for(f"alert of {name}", 400, lambda url=url: _sum(url, regression) == 1)  # type: ignore[misc]
        took[name] = time.monotonic() - begun
    print(f"the alert came after {took} seconds")

    names = _recorded() - TIMES
    deadline = time.monotonic() + 120  # what no alert rests on may come some evaluations later
    while True:
        by_prometheus = {name: _series(prometheus.url, name) for name in names}
        by_vmalert = {name: _series(victoria, name) for name in names}
        differs = {name: by_vmalert[name] != pytest.approx(by_prometheus[name], rel=1e-9) for name in names}
        # The last 20 minutes' counts run out at a time of their own.
        different = {name for name in names if differs[name]} - {"kpi:messages:recent", "kpi:drift:recent"}
        if different == NOT_BY_VMALERT or time.monotonic() > deadline:
            break
        time.sleep(2)
    seen = {name for name, series in by_prometheus.items() if series}
    print(f"with data {len(seen)} of {len(names)}; without: {sorted(names - seen)}")
    assert different == NOT_BY_VMALERT
    assert set(by_vmalert["kpi:coverage_ratio"].values()) == {0.0}
    assert min(by_prometheus["kpi:coverage_ratio"].values()) > 0
    added = "sum(sum_over_time(kpi:drift:count_delta[10m]))"
    counted = 580 + 3 * len(contract.LATENCY_BOUNDS) + 20 + 50  # messages, errors, out of scope
    assert (_sum(prometheus.url, added), _sum(victoria, added)) == (counted, 0)
    # A week of counts is needed for these, so that nothing is said of them but what they rest on.
    assert names - seen == {name for name in names if name.startswith("kpi:drift:")} - {
        "kpi:drift:count_last",
        "kpi:drift:count_delta",
        "kpi:drift:recent",
    }
