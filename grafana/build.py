"""`python -m grafana.build` writes the dashboards; `--check` says whether the files are current."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.dashboards import DASHBOARDS

GENERATED = Path(__file__).parent / "generated"

DIFF_LINES = 20
"""Lines of a diff that `--check` prints for each file; the rest is counted."""


def render() -> dict[str, str]:
    """File name → JSON text of every dashboard."""
    rendered = {}
    for dashboard in DASHBOARDS:
        model = json.loads(JSONEncoder().encode(dashboard()))
        for item in [*model["links"], *model["annotations"]["list"]]:
            # The SDK asks for the controls menu, where newer versions of Grafana hide links and annotations.
            del item["placement"]
        rendered[f"{model['uid']}.json"] = json.dumps(model, indent=2, ensure_ascii=False) + "\n"
    return rendered


def write(folder: Path) -> None:
    """Write every dashboard and remove the files of dashboards that are gone."""
    rendered = render()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.glob("*.json")) - {folder / name for name in rendered}:
        stale.unlink()
    for name, text in rendered.items():
        (folder / name).write_text(text, encoding="utf-8")


def differences(folder: Path) -> list[str]:
    """One summary per file that is missing, left over or outdated; empty when all are current."""
    rendered = render()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    summaries = [f"{name}: no dashboard writes this file" for name in sorted(found.keys() - rendered.keys())]
    for name, text in rendered.items():
        if name not in found:
            summaries.append(f"{name}: missing")
        elif found[name] != text:
            summaries.append(_summary(name, found[name], text))
    return summaries


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all is written or current, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m grafana.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs")
    parser.add_argument(
        "--folder", type=Path, default=GENERATED, help="where the files are (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        return 0
    summaries = differences(options.folder)
    for summary in summaries:
        sys.stderr.write(f"{summary}\n")
    if summaries:
        sys.stderr.write("Run `python -m grafana.build` and commit the result.\n")
    return 1 if summaries else 0


def _summary(name: str, old: str, new: str) -> str:
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "committed", "generated", n=0, lineterm=""
    )
    lines = list(diff)
    shown = "\n".join(f"  {line}" for line in lines[:DIFF_LINES])
    rest = len(lines) - DIFF_LINES
    return f"{name}: differs\n{shown}" + (f"\n  … {rest} more lines" if rest > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
