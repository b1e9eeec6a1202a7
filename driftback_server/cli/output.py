"""Standard output and standard error of a command: what cannot be printed never decides what is done.

A character that the terminal lacks is shown as its escape. A write that fails (a full disk, a reader that is
gone) raises nothing; `finish` says so, and gives the exit code, when the command is over.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO


class _Stream(io.FileIO):
    """A standard stream that remembers its first failure instead of raising it."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Writes, or loses, all of it."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


class Output:
    """Both streams of this process, from `guard` on."""

    def __init__(self) -> None:
        self._results: _Stream | None = None
        self._done = False

    def guard(self) -> None:
        """Takes the place of `sys.stdout` and `sys.stderr`."""
        self._results, sys.stdout = _guarded(sys.stdout)
        _, sys.stderr = _guarded(sys.stderr)

    def act_is_done(self) -> None:
        """What is printed from now on only tells of it: to lose that is no failure of the command."""
        self._done = True

    @property
    def lost(self) -> OSError | None:
        """Why results did not get out."""
        return self._results.failure if self._results else None

    @property
    def is_utf8(self) -> bool:
        """Whether standard output takes every character."""
        return codecs.lookup(sys.stdout.encoding).name == "utf-8"

    def finish(self, exit_code: int) -> int:
        """The exit code of the command, or that of lost results."""
        sys.stdout.flush()
        if self.lost is None or exit_code:
            return exit_code
        if not isinstance(self.lost, BrokenPipeError):  # a reader that has enough needs not be told
            sys.stderr.write(f"driftback: {self.lost}\n")
        return 0 if self._done else 1


def _guarded(stream: TextIO | None) -> tuple[_Stream, TextIO]:
    # A descriptor that is closed may come to be a file of somebody else.
    raw = _Stream(stream.fileno(), "wb", closefd=False) if stream else _Stream(os.devnull, "wb")
    encoding = stream.encoding if stream else "utf-8"
    return raw, io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )


output = Output()
