"""A real Prometheus with the real rules at a fast clock, and an exporter that a test counts on by hand."""

import re
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from driftback import contract
from exporter import catalogue
from exporter.metrics.render import View, render
from exporter.storage.clock import Moment
from exporter.storage.series import SeriesTable
from exporter.wire import HistogramDelta, SeriesDelta
from tests.rules.files import CHECKOUT, RULES, load
from tests.support import web

_DEADLINE_SECONDS = 300

LabelSet = tuple[str, str, str]
"""journey, persona, config_version"""


class Exporter:
    """The exporter's own table and exposition, counted on by hand; while `down`, a scrape fails."""

    def __init__(self, scoped_journeys: tuple[str, ...] = catalogue.OUT_OF_SCOPE_JOURNEYS) -> None:
        self.down = False
        self.predecessors: dict[tuple[str, str], str] = {}
        self.accepted: dict[str, float] = {}
        """When a person accepted a persona's level, unix seconds."""
        self._scoped_journeys = scoped_journeys
        self._lock = threading.Lock()
        self.lose_state("journal-1")

    def declare(self, labels: LabelSet, age_seconds: float = 0) -> None:
        """Exports the label set, at zero where it is new; `age_seconds` ago is when it says that it was."""
        self._add(SeriesDelta(*labels), age_seconds)

    def count(
        self, labels: LabelSet, messages: int, seconds: float, out_of_scope: int = 0, errors: int = 0
    ) -> None:
        """Counts messages of one latency, some of them out of scope, some in error, all at once."""
        bucket = bisect_left(contract.LATENCY_BOUNDS, seconds)
        latency = HistogramDelta(messages * seconds, {bucket: messages})
        self._add(SeriesDelta(*labels, messages, out_of_scope, {"timeout": errors}, latency))

    def lose_state(self, journal: str) -> None:
        """Starts again from nothing, as after a restore without the journal."""
        with self._lock:
            self._table = SeriesTable()
            self._table.journal = journal

    def text(self) -> str:
        """The exposition."""
        lines = [
            f'config_version_predecessor_info{{persona="{persona}",config_version="{version}",'
            f'predecessor="{predecessor}"}} 1\n'
            for (persona, version), predecessor in self.predecessors.items()
        ]
        for persona, at in self.accepted.items():
            lines.append(f'config_baseline_accepted_timestamp_seconds{{persona="{persona}"}} {at:.3f}\n')
        with self._lock:
            view = View(tuple(self._table), self._table.reasons, self._scoped_journeys)
            return "".join([*lines, *render(view, openmetrics=False)])

    def _add(self, delta: SeriesDelta, age_seconds: float = 0) -> None:
        with self._lock:
            self._table.add(delta, Moment(0, time.time() - age_seconds))


@dataclass(frozen=True)
class Prometheus:
    """Asks a running Prometheus."""

    url: str

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values by their labels; the metric's name is left out."""
        answer = self.get("query", query=expression)
        return {
            tuple(sorted((k, v) for k, v in sample["metric"].items() if k != "__name__")): float(
                sample["value"][1]
            )
            for sample in answer["result"]
        }

    def value(self, expression: str) -> float | None:
        """The value of the only sample, None while there is none."""
        values = list(self.query(expression).values())
        assert len(values) < 2, expression
        return values[0] if values else None

    def get(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def wait_for(self, expression: str, value: float) -> None:
        """Until the expression has this value, and fails where it leaves it again within two seconds."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while (found := self.value(expression)) != value:
            assert time.monotonic() < deadline, f"{expression}: {found}, not {value}"
            time.sleep(0.1)
        settled = time.monotonic() + 2
        while time.monotonic() < settled:
            assert self.value(expression) == value
            time.sleep(0.1)


@contextmanager
def serve(exporter: Exporter) -> Iterator[str]:
    """The address at which Prometheus finds what the exporter exposes."""

    def metrics(_: bytes) -> web.Answer:
        return 503 if exporter.down else 200, "text/plain; version=0.0.4", exporter.text().encode()

    with web.serving(metrics) as address:
        yield address


@contextmanager
def running(
    program: Path, folder: Path, exporter: Exporter, *, alertmanager: str = "", config_rollback: str = ""
) -> Iterator[Prometheus]:
    """Prometheus with the committed configuration and rules, scraping and evaluating every second.

    It sends alerts to the address `alertmanager` and scrapes the address `config_rollback`, where given.
    """
    config = load(CHECKOUT / "prometheus" / "prometheus.yml")
    config["global"].update(scrape_interval="1s", evaluation_interval="1s")
    config["rule_files"] = [str(RULES / "*.yml")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}] * bool(
        alertmanager
    )
    with serve(exporter) as address:
        targets = {"exporter": address, "config_rollback": config_rollback}
        config["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
            if target
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [
            str(program),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        with (folder / "prometheus.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Prometheus(f"http://{_address(process, folder / 'prometheus.log')}")
        finally:
            process.terminate()
            process.wait(timeout=_DEADLINE_SECONDS)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where Prometheus listens, once it is ready."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while "ready to receive web requests" not in (text := log.read_text(encoding="utf-8")):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    listening = re.search(r'msg="Listening on" (?:component=\S+ )?address=(\S+)', text)
    assert listening, text
    return listening[1]
