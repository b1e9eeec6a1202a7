"""A real Prometheus with the real rules at a fast clock, and an exporter that a test counts on by hand."""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftback import contract
from exporter import catalogue
from exporter.metrics.render import View, render
from exporter.storage.clock import Moment
from exporter.storage.series import SeriesTable
from exporter.wire import HistogramDelta, SeriesDelta
from tests.support import web
from tests.support.monitoring import Prometheus, prometheus

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


@contextmanager
def serve(exporter: Exporter) -> Iterator[str]:
    """The address at which Prometheus finds what the exporter exposes."""

    def metrics(_: bytes) -> web.Answer:
        return 503 if exporter.down else 200, "text/plain; version=0.0.4", exporter.text().encode()

    with web.serving(metrics) as address:
        yield address


@contextmanager
def running(
    folder: Path, exporter: Exporter, *, alertmanager: str = "", config_rollback: str = ""
) -> Iterator[Prometheus]:
    """Prometheus that scrapes the exporter, and sends alerts to the address `alertmanager` where given.

    It also scrapes the address `config_rollback` where given.
    """
    with serve(exporter) as address:
        targets = {"exporter": address} | ({"config_rollback": config_rollback} if config_rollback else {})
        with prometheus(folder, targets, alertmanager=alertmanager) as started:
            yield started
