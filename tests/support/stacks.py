"""Starts a whole stack by `driftback up`, as a user would, and ends it again."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import requests

from driftback_server.stack.errors import PortTakenError
from driftback_server.stack.ports import LOOPBACK, Ports

ROOT = Path(__file__).parents[2]
DRIFTBACK = Path(sys.executable).parent / "driftback"
_READY_SECONDS = 180
_STOP_SECONDS = 40

T = TypeVar("T")


def wait_for(what: str, timeout_seconds: float, condition: Callable[[], T], pause: float = 0.5) -> T:
    """The first true value of `condition`; fails with `what` after the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"no {what} within {timeout_seconds:.0f} s; last: {value!r}"
        time.sleep(pause)


def free_offset() -> int:
    """A port offset at which the whole stack finds its ports free.

    All its ports are then below those that the kernel gives to outgoing connections.
    """
    rng = random.Random()
    names = [field.name for field in fields(Ports)]
    for _ in range(100):
        offset = rng.randrange(10_000, 22_000)
        try:
            Ports().shifted(offset).require_free(names)
        except PortTakenError:
            continue
        return offset
    raise AssertionError("no free range of ports")


_PORTS = iter(random.SystemRandom().sample(range(10_000, 13_000), 3_000))
"""Ports below those of a stack and below those that the kernel hands out; each once in a process."""


def free_port() -> int:
    """A port that is free now, and that no other test is given before a server is started on it."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def answers(url: str) -> bool:
    """Whether something serves 200 at this address now."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


class RunningStack:
    """A stack that answered `--json`; `info` is that line, decoded."""

    def __init__(self, process: subprocess.Popen[str], info: dict[str, Any], notes: Path) -> None:
        self.process = process
        self.info = info
        self.notes = notes

    def url(self, name: str) -> str:
        """The base URL of a process of the stack."""
        return str(self.info["urls"][name])

    @property
    def ops(self) -> dict[str, str]:
        """Headers of an operator."""
        return {"Authorization": f"Bearer {self.info['ops_token']}"}

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `driftback` against this stack."""
        environment = {**os.environ, "DRIFTBACK_STATE_DIR": self.info["state_dir"], "COLUMNS": "200"}
        return subprocess.run(
            [DRIFTBACK, *words], env=environment, capture_output=True, text=True, timeout=300, check=False
        )


@contextmanager
def stack(
    state_dir: Path, *options: str, offset: int | None = None, grafana: bool = False
) -> Iterator[RunningStack]:
    """Runs `driftback up --json OPTIONS`; ends it by SIGTERM and requires that it ends cleanly.

    Without `grafana` none is started, even where one is on PATH.
    """
    notes = state_dir.parent / f"{state_dir.name}.notes"
    command = [str(DRIFTBACK), "up", "--json", "--state-dir", str(state_dir)]
    command += [] if grafana else ["--no-grafana"]
    command += ["--port-offset", str(free_offset() if offset is None else offset), *options]
    with notes.open("a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=state_dir.parent
        )
    try:
        assert process.stdout is not None
        line = _first_line(process)
        assert line, f"driftback up printed nothing; it said:\n{notes.read_text()}"
        yield RunningStack(process, json.loads(line), notes)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.stdout.close()  # type: ignore[union-attr]
    assert status == 0, notes.read_text()


def _first_line(process: subprocess.Popen[str]) -> str:
    """The ready line; a watchdog ends a stack that never gets there, which ends the read."""
    import threading

    watchdog = threading.Timer(_READY_SECONDS, process.terminate)
    watchdog.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def processes_of(state_dir: Path) -> list[str]:
    """Command lines of living processes that mention the state folder, read from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(state_dir) in line or str(state_dir) in environment:
                found.append(line)
    return found
