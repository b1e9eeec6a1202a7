"""A real Prometheus with the real rules at a fast clock, and an exporter that a test counts on by hand."""

import math
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from driftback import contract
from exporter import catalogue
from tests.rules.files import CHECKOUT, RULES, load
from tests.support import web

_DEADLINE_SECONDS = 300
_BOUNDS = [*contract.LATENCY_BOUNDS, math.inf]

LabelSet = tuple[str, str, str]
"""journey, persona, config_version"""


@dataclass
class Exporter:
    """Exposes what a test counts. `journal` changes when the state is lost; while `down`, a scrape fails."""

    journal: str = "journal-1"
    down: bool = False
    scoped_journeys: tuple[str, ...] = catalogue.OUT_OF_SCOPE_JOURNEYS
    """Those that can be out of scope, by the label policy."""
    predecessors: dict[tuple[str, str], str] = field(default_factory=dict)
    accepted: dict[str, float] = field(default_factory=dict)
    """When a person accepted a persona's level, unix seconds."""
    _counts: dict[LabelSet, Counter[str]] = field(default_factory=dict)
    _created: dict[LabelSet, float] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def declare(self, labels: LabelSet, age_seconds: float = 0) -> None:
        """Exports the label set, at zero where it is new; `age_seconds` ago is when it says that it was."""
        with self._lock:
            self._counts.setdefault(labels, Counter())
            self._created.setdefault(labels, time.time() - age_seconds)

    def count(
        self, labels: LabelSet, messages: int, seconds: float, out_of_scope: int = 0, errors: int = 0
    ) -> None:
        """Counts messages of one latency, some of them out of scope, some in error, all at once."""
        with self._lock:
            self.declare(labels)
            counts = self._counts[labels]
            counts["messages"] += messages
            counts["out_of_scope"] += out_of_scope
            counts["errors"] += errors
            for bound in _BOUNDS:
                counts[f"le {bound}"] += messages if seconds <= bound else 0

    def lose_state(self, journal: str) -> None:
        """Starts again from nothing, as after a restore without the journal."""
        with self._lock:
            self.journal = journal
            self._counts.clear()
            self._created.clear()

    def text(self) -> str:
        """The exposition."""
        lines = []
        with self._lock:
            for (persona, version), predecessor in self.predecessors.items():
                labels = f'persona="{persona}",config_version="{version}",predecessor="{predecessor}"'
                lines.append(f"config_version_predecessor_info{{{labels}}} 1")
            for persona, at in self.accepted.items():
                lines.append(f'config_baseline_accepted_timestamp_seconds{{persona="{persona}"}} {at:.3f}')
            for (journey, persona, version), counts in self._counts.items():
                labels = (
                    f'journal="{self.journal}",journey="{journey}",persona="{persona}",'
                    f'config_version="{version}"'
                )
                created = self._created[journey, persona, version]
                lines.append(f"{catalogue.CREATED.name}{{{labels}}} {created:.3f}")
                lines.append(f"{catalogue.MESSAGES.name}{{{labels}}} {counts['messages']}")
                if journey in self.scoped_journeys:
                    lines.append(f"{catalogue.OUT_OF_SCOPE.name}{{{labels}}} {counts['out_of_scope']}")
                for reason in contract.REASONS:
                    errors = counts["errors"] if reason == "timeout" else 0
                    lines.append(f'{catalogue.LLM_ERRORS.name}{{{labels},reason="{reason}"}} {errors}')
                for bound in _BOUNDS:
                    le = "+Inf" if bound == math.inf else str(bound)
                    name = f"{catalogue.LATENCY.name}_bucket"
                    lines.append(f'{name}{{{labels},le="{le}"}} {counts[f"le {bound}"]}')
        return "\n".join(lines) + "\n"


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
