"""Exactness of the counts in live Prometheus, without a fault and through each of the faults."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rules_report import fast_clock
from rules_report.fast_clock import Result
from rules_report.rows import Row

SHORT_SECONDS = 38
FULL_SECONDS = 830
"""Past the fast clock's week (672 s) and the eight days until a label set expires."""
WINDOWS = ("1h", "6h", "24h", "7d")


def rows(prometheus: Path, folder: Path, seconds: float) -> Iterator[Row]:
    """Share of exact counts per scenario, of the window in which it is least.

    Watcher B (killed, then down) has a row of its own over all scenarios, and so has what A and B both say.
    """
    scenarios: dict[str, list[Result]] = defaultdict(list)
    for result in fast_clock.run(prometheus, folder, seconds):
        killed = result.watcher == "B"
        scenarios["Prometheus killed, then down 2 h" if killed else result.scenario].append(result)
    for name, results in sorted(scenarios.items()):
        checked = sum(result.checked for result in results)
        worst = max(result.worst for result in results)
        unchecked = [window for window in WINDOWS if not _of(results, window)]
        nothing = f", NOTHING COMPARED at {', '.join(unchecked)}" if unchecked else ""
        yield Row(
            f"exact counts, {name} ({checked} checks, largest error {worst:g}{nothing})",
            min(_share(results, window) for window in WINDOWS),
            "share",
            "least",
            0.99 if name == "no fault" else 1.0,
        )


def _of(results: list[Result], window: str) -> list[Result]:
    return [result for result in results if result.window == window and result.checked]


def _share(results: list[Result], window: str) -> float:
    """0 if nothing was compared."""
    found = _of(results, window)
    return sum(result.exact for result in found) / sum(result.checked for result in found) if found else 0.0
