"""A real Redis for the tests, on a free port of loopback, with a password and nothing on disk."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal

import redis

from tests.support.stacks import free_port

START_SECONDS = 30
PASSWORD = "the-password-of-redis"

Fault = Literal["away", "hanging", "full"]


class Redis:
    """A server that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        # Debian's redis-tools brings the server under another name; it acts by the name that it is called by.
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert program, "redis is missing: run `make test`, which installs it"
        self._program = folder / "redis-server"
        self._program.symlink_to(program)
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Redis:
        """Returns when it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "requirepass": PASSWORD}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._program, *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, "redis ended at once"
                assert time.monotonic() < deadline, "redis does not answer"
                time.sleep(0.02)
            else:
                return self

    def fail(self, fault: Fault) -> None:
        """Ends it, stops it without a word, or has it refuse whatever it would have to keep."""
        assert self._process is not None
        if fault == "away":
            self.stop()
        elif fault == "hanging":
            self._process.send_signal(signal.SIGSTOP)
        else:
            self._client().config_set("maxmemory", 1)

    def recover(self, fault: Fault) -> None:
        """Ends what `fail` did."""
        if fault == "away":
            self.start()
        elif fault == "hanging":
            assert self._process is not None
            self._process.send_signal(signal.SIGCONT)
        else:
            self._client().config_set("maxmemory", 0)

    def allow_scripts(self, allowed: bool) -> None:
        """Whether it runs what its clients count and forget with."""
        self._client().acl_setuser(
            "default", enabled=True, categories=[f"{'+' if allowed else '-'}@scripting"]
        )

    def _client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD)

    def stop(self) -> None:
        """Ends it; what it counted is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # it ends only when it runs
            self._process.terminate()
            self._process.wait(10)
            self._process = None
