"""Runs the programs of a stack under supervisord: it restarts what dies and ends all on a signal.

Source of the format: supervisor's documentation, "Configuration File".
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import requests

from config_rollback.outgoing import sessions as outgoing
from driftback_server.stack.errors import StackDiedError
from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import Ports
from driftback_server.stack.programs import Program

STOP_SECONDS = 10
_POLL_SECONDS = 0.1
_LOG_TAIL_LINES = 15
# A program may end once or twice at first, say while another is not there yet.
_EXITS_BEFORE_READY = 3
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Supervisor:
    """supervisord as a child process, and a look at the health of what it runs."""

    def __init__(self, layout: Layout, ports: Ports, programs: list[Program]) -> None:
        self._layout = layout
        self._ports = ports
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._log = layout.logs / "supervisord.log"

    def start(self) -> None:
        """Writes the configuration and starts supervisord, which starts every program at once."""
        config = self._layout.config / "supervisord.conf"
        config.write_text(self._configuration())
        config.chmod(0o600)
        self._log.unlink(missing_ok=True)
        with (self._layout.logs / "supervisord.out").open("w") as output:
            self._process = self._spawn(config, output)

    def _spawn(self, config: Path, output: IO[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(config)],
            cwd=self._layout.root,
            stdin=subprocess.DEVNULL,
            stdout=output,  # the log again, and errors in the configuration
            stderr=subprocess.STDOUT,
            # Its own session: a Ctrl-C reaches `driftback up` alone, which then stops all in order.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def wait_ready(self, timeout_seconds: float, progress: Callable[[str], None]) -> None:
        """Returns when every program answers on its ready path.

        Raises StackDiedError, with the end of the log, when one gives up or does not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        for program in self._programs:
            while program.ready_path and not self._answers(program):
                self.require_alive()
                if self._log_text().count(f" exited: {program.name} (") >= _EXITS_BEFORE_READY:
                    raise StackDiedError(
                        f"{program.name} does not stay up.\n{self._tail(program.name + '.log')}"
                    )
                if time.monotonic() > deadline:
                    late = f"{program.name} is not ready after {timeout_seconds:.0f} s."
                    raise StackDiedError(f"{late}\n{self._tail(program.name + '.log')}")
                time.sleep(_POLL_SECONDS)
            if program.ready_path:
                progress(f"{program.name} is up")

    def require_alive(self) -> None:
        """Raises StackDiedError if supervisord has ended or has given up a program."""
        if self._process is None or self._process.poll() is not None:
            raise StackDiedError(f"the supervisor ended.\n{self._tail('supervisord.out')}")
        for line in self._log_text().splitlines():
            if "entered FATAL state" in line:
                name = line.split("gave up: ")[-1].split(" ")[0]
                raise StackDiedError(f"{name} keeps stopping.\n{self._tail(name + '.log')}")

    def stop(self) -> None:
        """Ends every program, then supervisord; returns when all are gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            # Programs stop in parallel; a program that ignores SIGTERM is killed after STOP_SECONDS.
            self._process.wait(timeout=STOP_SECONDS * 2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self, program: Program) -> bool:
        try:
            url = f"{self._ports.url(program.name)}{program.ready_path}"
            return outgoing.request("GET", url, timeout=2).ok
        except requests.RequestException:
            return False

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _tail(self, name: str) -> str:
        path = self._layout.logs / name
        lines = path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:] if path.exists() else []
        return "\n".join([f"The end of {path}:", *lines])

    def _configuration(self) -> str:
        head = [
            "[supervisord]",
            "nodaemon = true",
            # supervisord warns if it runs as root, and fails for a user id without a name, as in a container.
            *(["user = 0"] if os.getuid() == 0 else []),
            f"logfile = {_escaped(self._log)}",
            "logfile_maxbytes = 10MB",
            "logfile_backups = 1",
            f"pidfile = {_escaped(self._layout.config / 'supervisord.pid')}",
            f"childlogdir = {_escaped(self._layout.logs)}",
        ]
        return (
            "\n".join(head + [line for program in self._programs for line in self._section(program)]) + "\n"
        )

    def _section(self, program: Program) -> list[str]:
        environment = ",".join(f'{key}="{_escaped(value)}"' for key, value in program.environment.items())
        return [
            "",
            f"[program:{program.name}]",
            f"command = {' '.join(_quoted(word) for word in program.command)}",
            f"environment = {environment}",
            *([f"directory = {_escaped(program.directory)}"] if program.directory else []),
            # Relative to the state folder: supervisor expands this one twice, and a path may have a %.
            f"stdout_logfile = {self._layout.logs.name}/{program.name}.log",
            "redirect_stderr = true",
            "stdout_logfile_maxbytes = 10MB",
            "stdout_logfile_backups = 1",
            "autorestart = true",
            "startsecs = 1",
            "startretries = 3",
            "stopasgroup = true",
            "killasgroup = true",
            f"stopwaitsecs = {STOP_SECONDS}",
        ]


def _end_with_parent() -> None:
    """Has the kernel send SIGTERM to supervisord when `driftback up` dies without stopping it (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _escaped(value: str | Path) -> str:
    return str(value).replace("%", "%%")


def _quoted(word: str) -> str:
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
