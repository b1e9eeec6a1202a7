"""Run every `benchmarks/bench_*.py`, print one table of ratios, write build/bench.json.

python -m benchmarks [NAME ...]     NAME picks modules whose name contains it
"""

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.row import Row

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "build" / "bench.json"
FIELDS = ("name", "ours", "peer", "unit", "ratio", "goal", "met")
LIBRARIES = ("msgspec", "uvicorn", "prometheus-client", "opentelemetry-sdk", "statsd")


def main(wanted: list[str]) -> int:
    """Measure, print and write. Returns 1 if there is nothing to run; a missed goal is a figure, no error."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(_machine())
    rows = []
    for name in _modules(wanted):
        console.print(f"measuring {name} ...")
        rows += list(importlib.import_module(f"benchmarks.{name}").rows())
    if not rows:
        console.print("no such benchmark")
        return 1
    console.print(_table(rows))
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False, markup=False)
    RESULT.parent.mkdir(exist_ok=True)
    plain = [{field: getattr(row, field) for field in FIELDS} for row in rows]
    RESULT.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return 0


def _modules(wanted: list[str]) -> Iterator[str]:
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if not wanted or any(part in path.stem for part in wanted):
            yield path.stem


def _machine() -> str:
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            versions.append(f"{library} absent")
    return f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}; " + ", ".join(
        versions
    )


def _table(rows: list[Row]) -> Table:
    table = Table("what", "ours", "peer", "unit", "ratio", "goal", "met")
    for row in rows:
        peer, ratio = _figure(row.peer), _figure(row.ratio)
        table.add_row(
            row.name, _figure(row.ours), peer, row.unit, ratio, row.goal, "yes" if row.met else "NO"
        )
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
