"""Prints what the rules are worth beside the goals, writes build/rules.json (about 18 minutes)."""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from driftback_server.stack import components
from rules.build import RULES
from rules_report import accuracy_rows, count_rows, drift_rows, end_rows
from rules_report.rows import Row

OUTPUT = RULES.parent / "build" / "rules.json"


def measure(short: bool) -> list[Row]:
    """Every figure; the short form has fewer runs, fewer volumes and no week of the fast clock."""
    programs = components.ensure(["prometheus", "promtool"])
    with tempfile.TemporaryDirectory() as scratch:
        counts, accuracy, ends = (Path(scratch, name) for name in ("counts", "accuracy", "ends"))
        for folder in (counts, accuracy, ends):
            folder.mkdir()
        seconds = count_rows.SHORT_SECONDS if short else count_rows.FULL_SECONDS
        return list(
            itertools.chain(
                count_rows.rows(programs["prometheus"], counts, seconds),
                accuracy_rows.rows(
                    programs["prometheus"], programs["promtool"], accuracy, 20 if short else 200
                ),
                drift_rows.rows(30, (100,)) if short else drift_rows.rows(400),
                end_rows.rows(programs["promtool"], ends, (500,) if short else end_rows.VOLUMES),
            )
        )


def main() -> int:
    """Exit code 1 where a goal of the full report is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a quick look: fewer runs, nothing written")
    short = parser.parse_args().short
    rows = measure(short)
    table = Table("figure", "value", "unit", "goal", "met", box=None)
    for row in rows:
        sign = "≤" if row.at == "most" else "≥"
        table.add_row(
            row.name, f"{row.value:.3g}", row.unit, f"{sign} {row.goal:.3g}", "yes" if row.met else "NO"
        )
    Console(width=140).print(table)
    if not short:
        OUTPUT.parent.mkdir(exist_ok=True)
        document = [
            {"name": r.name, "value": r.value, "unit": r.unit, "goal": r.goal, "met": r.met} for r in rows
        ]
        OUTPUT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if short or all(row.met or row.name.endswith("aim") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
