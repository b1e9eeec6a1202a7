"""Standard output and standard error of a command. A failure to print never changes what the command does.

A character that the terminal cannot show is printed as an escape. A write that fails (a full disk, a closed
pipe) raises nothing; `finish` reports it at the end of the command, and returns the exit code.
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
        """Writes all of the data, or none of it if a write fails."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


class Output:
    """Both streams of this process, after `guard`."""

    def __init__(self) -> None:
        self._results: _Stream | None = None
        self._done = False

    def guard(self) -> None:
        """Replaces `sys.stdout` and `sys.stderr`."""
        self._results, sys.stdout = _guarded(sys.stdout)
        _, sys.stderr = _guarded(sys.stderr)

    def act_is_done(self) -> None:
        """From now on a failure to print does not change the exit code, because the act is done."""
        self._done = True

    @property
    def lost(self) -> OSError | None:
        """The error because of which results were not printed, if any."""
        return self._results.failure if self._results else None

    @property
    def is_utf8(self) -> bool:
        """Whether standard output can show every character."""
        return codecs.lookup(sys.stdout.encoding).name == "utf-8"

    def finish(self, exit_code: int) -> int:
        """The exit code: that of the command, or 1 if its results could not be printed."""
        sys.stdout.flush()
        if self.lost is None or exit_code:
            return exit_code
        if not isinstance(self.lost, BrokenPipeError):  # the reader closed the pipe on purpose
            sys.stderr.write(f"driftback: {self.lost}\n")
        return 0 if self._done else 1


def _guarded(stream: TextIO | None) -> tuple[_Stream, TextIO]:
    # A closed descriptor may be used again for another file.
    raw = _Stream(stream.fileno(), "wb", closefd=False) if stream else _Stream(os.devnull, "wb")
    encoding = stream.encoding if stream else "utf-8"
    return raw, io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )


output = Output()
