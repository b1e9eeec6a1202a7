"""Generated files: written, or compared with those that are committed."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DIFF_LINES = 20
"""Lines of a diff that `--check` prints for each file; the rest is counted."""


@dataclass(frozen=True)
class Generated:
    """The files that one module makes. `render` gives their texts by file name."""

    module: str
    folder: Path
    render: Callable[[], dict[str, str]]
    owned: str = ""
    """Pattern of files in the folder that nothing else makes, so that one too many is stale."""

    def write(self, folder: Path) -> list[str]:
        """Brings the folder up to date; the names of the files that were not."""
        texts = self.render()
        folder.mkdir(parents=True, exist_ok=True)
        stale = self._left_over(folder, texts)
        for name in stale:
            (folder / name).unlink()
        for name, text in texts.items():
            if _read(folder / name) != text:
                (folder / name).write_text(text, encoding="utf-8")
                stale.append(name)
        return stale

    def differences(self, folder: Path) -> list[str]:
        """One summary per file that is missing, left over or outdated; empty when all are current."""
        texts = self.render()
        summaries = [f"{name}: nothing writes this file" for name in self._left_over(folder, texts)]
        for name, text in texts.items():
            found = _read(folder / name)
            if found is None:
                summaries.append(f"{name}: missing")
            elif found != text:
                summaries.append(_summary(name, found, text))
        return summaries

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Exit code 0 when all is written or current, 1 when `--check` finds a difference."""
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}", description="Writes the generated files."
        )
        parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs")
        parser.add_argument(
            "--folder", type=Path, default=self.folder, help="where the files are (default: %(default)s)"
        )
        options = parser.parse_args(arguments)
        if not options.check:
            for name in self.write(options.folder):
                sys.stdout.write(f"brought {options.folder / name} up to date\n")
            return 0
        summaries = self.differences(options.folder)
        for summary in summaries:
            sys.stderr.write(f"{summary}\n")
        if summaries:
            sys.stderr.write(f"Run `python -m {self.module}` and commit the result.\n")
        return 1 if summaries else 0

    def _left_over(self, folder: Path, texts: dict[str, str]) -> list[str]:
        found = {path.name for path in folder.glob(self.owned)} if self.owned else set()
        return sorted(found - texts.keys())


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _summary(name: str, old: str, new: str) -> str:
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "committed", "generated", n=0, lineterm=""
    )
    lines = list(diff)
    shown = "\n".join(f"  {line}" for line in lines[:DIFF_LINES])
    rest = len(lines) - DIFF_LINES
    return f"{name}: differs\n{shown}" + (f"\n  … {rest} more lines" if rest > 0 else "")
