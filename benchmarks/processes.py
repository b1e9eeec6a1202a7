"""Processes that a measurement starts, none of which outlives it."""

import resource
from pathlib import Path

ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: the kernel ends it with the thread that started it, even when that is killed."""


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
