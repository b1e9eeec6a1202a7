"""Processes that a measurement starts, none of which outlives it."""

import signal
import sys

ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: the kernel ends it with the thread that started it, even when that is killed."""


def leave_on_sigterm() -> None:
    """Lets SIGTERM unwind the stack as Ctrl-C does: servers are stopped, scratch folders removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
