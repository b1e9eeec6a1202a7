"""Programs that a test starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 300
"""How long a busy machine may take."""


@contextmanager
def process(
    command: Sequence[object], log: Path, ready: Callable[[], object], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program until the block ends. The block begins when `ready` gives something true.

    Fails with the program's output if the program ends before that. `options` are those of Popen.
    """
    with log.open("w") as output:
        started = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, **options
        )
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not ready():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield started
    finally:
        started.terminate()
        started.wait(timeout=DEADLINE_SECONDS)
