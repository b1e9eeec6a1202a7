"""docs/deployment.md as something to be run: its commands, and a checkout to run them in."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.stacks import ROOT

PAGE = ROOT / "docs" / "deployment.md"


def documented(chapter: str) -> list[str]:
    """The commands of a chapter, in order: indented blocks, and what `docker compose` runs within a line."""
    text = PAGE.read_text().partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (\S(?:.*\\\n)*.*)$|`(docker compose [^`]*)`$", text, re.M)
    assert commands, chapter
    return [block or inline for block, inline in commands]


class Access(NamedTuple):
    """What the container of config_rollback makes for a person."""

    login_link: str
    headers: dict[str, str]


def as_written(command: str, run: Callable[..., str], checkout: Path) -> str:
    """What a command of the page printed; `run` is that of an engine or a cluster."""
    return run("bash", "-euo", "pipefail", "-c", command, cwd=checkout)


def access(tool: str, perform: Callable[[str], str]) -> Access:
    """A login link and a token, made by the page's commands for `docker compose` or `kubectl`."""
    commands = [line for line in documented("Log in, and run commands") if line.startswith(f"{tool} ")]
    link, token = (perform(command).strip() for command in commands)
    return Access(link, {"Authorization": f"Bearer {token}"})


def copy_checkout(folder: Path) -> Path:
    """A copy of what git does not ignore."""
    folder.mkdir()
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout
    archive = ["tar", "-C", str(ROOT), "--null", "--files-from=-", "--ignore-failed-read", "-cf", "-"]
    content = subprocess.run(archive, input=names, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", str(folder), "-xf", "-"], input=content, check=True)
    return folder
