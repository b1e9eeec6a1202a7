"""Exactness of the counts in live Prometheus, without a fault and through each of the faults."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rules_report import fast_clock
from benchmarks.rules_report.rows import Row

SHORT_SECONDS = 38
FULL_SECONDS = 740
"""Past the fast clock's week (672 s)."""


def rows(prometheus: Path, folder: Path, seconds: float) -> Iterator[Row]:
    """Share of exact counts per scenario; that of watcher B (killed, then down) over all scenarios."""
    exact: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    worst: dict[str, float] = defaultdict(float)
    for result in fast_clock.run(prometheus, folder, seconds):
        killed = result.watcher == "B"
        name = "Prometheus killed, then down 2 h" if killed else result.scenario
        tally = exact[name]
        tally[0] += result.exact
        tally[1] += result.checked
        worst[name] = max(worst[name], result.worst)
    for name, (right, checked) in sorted(exact.items()):
        goal = 0.99 if name == "no fault" else 1.0
        yield Row(
            f"exact counts, {name} ({checked} checks, largest error {worst[name]:g})",
            right / checked,
            "share",
            "least",
            goal,
        )
