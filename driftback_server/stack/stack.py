"""One native stack: prepared, started, described, stopped."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from config_rollback.auth.tokens import mint_access_token, mint_login_link
from driftback_server.stack import components, programs
from driftback_server.stack.errors import StateInUseError
from driftback_server.stack.layout import Layout, assets_dir
from driftback_server.stack.ports import Ports
from driftback_server.stack.render import PrometheusOptions, render
from driftback_server.stack.secrets import SecretFiles
from driftback_server.stack.supervisor import Supervisor

_READY_SECONDS = 90
_OPERATOR = "local-operator"


@dataclass(frozen=True)
class Options:
    """What a person may choose of a stack."""

    demo: bool
    grafana: bool
    prometheus: PrometheusOptions


class Stack:
    """The processes of one state folder; `start` to `stop` holds a lock on it."""

    def __init__(self, layout: Layout, ports: Ports, options: Options) -> None:
        self.layout = layout
        self.ports = ports
        self._options = options
        self._lock: IO[str] | None = None
        self._supervisor: Supervisor | None = None
        self._grafana = programs.grafana_binary() if options.grafana else None

    def start(self, progress: Callable[[str], None]) -> None:
        """Starts every process and returns when all are ready.

        Raises ComponentMissingError, PortTakenError, StateInUseError or StackDiedError.
        """
        self.layout.create()
        self._lock = _locked(self.layout)
        binaries = components.ensure(("prometheus", "alertmanager"), progress=progress)
        secret = SecretFiles.create(self.layout.secrets)
        assets = assets_dir()
        wanted = programs.core(self.layout, self.ports, secret, binaries, self._grafana is not None)
        if self._grafana:
            wanted.append(programs.grafana(self.layout, self.ports, secret, self._grafana, assets))
        if self._options.demo:
            wanted += programs.examples(self.layout, self.ports, secret, assets)
        self.ports.require_free([program.name for program in wanted if program.ready_path])
        for program in wanted:
            (self.layout.data / program.name).mkdir(exist_ok=True)
        render(self.layout, self.ports, secret, assets, self._options.prometheus, self._grafana is not None)
        self._supervisor = Supervisor(self.layout, self.ports, wanted)
        self._supervisor.start()
        self._supervisor.wait_ready(_READY_SECONDS, progress)
        self._write_stack_file()

    def require_alive(self) -> None:
        """Raises StackDiedError if a process keeps stopping."""
        if self._supervisor:
            self._supervisor.require_alive()

    def stop(self) -> None:
        """Ends every process that `start` started; safe to call at any time."""
        if self._supervisor:
            self._supervisor.stop()
            self.layout.stack_file.unlink(missing_ok=True)
        if self._lock:
            self._lock.close()

    def describe(self) -> dict[str, Any]:
        """The line of `driftback up --json`: URLs, a fresh one-time login link, and tokens."""
        names = ["exporter", "config_rollback", "prometheus", "alertmanager"]
        if self._grafana:
            names.append("grafana")
        if self._options.demo:
            names += ["chat", "guidance"]
        return {
            "ready": True,
            "urls": {name: self.ports.url(name) for name in names},
            "login_link": self.login_link(),
            "ops_token": self.ops_token(),
            "ingest_token": self._secret("ingest_token"),
            "service_token": self._secret("service_token"),
            "state_dir": str(self.layout.root),
        }

    def ops_token(self) -> str:
        """A bearer token of role ops, good for eight hours."""
        return mint_access_token(
            self._secret("jwt_secret"), subject=_OPERATOR, role="ops", lifetime_seconds=8 * 3600
        )

    def login_link(self, next_path: str = "/") -> str:
        """A link that logs a browser in once, and then leads to `next_path`."""
        return mint_login_link(
            self._secret("jwt_secret"),
            subject=_OPERATOR,
            external_url=self.ports.url("config_rollback"),
            next_path=next_path,
        )

    def _secret(self, name: str) -> str:
        return (self.layout.secrets / name).read_text().strip()

    def _write_stack_file(self) -> None:
        path = self.layout.stack_file
        path.touch(mode=0o600)
        path.write_text(json.dumps(self.describe()) + "\n")


def _locked(layout: Layout) -> IO[str]:
    file = layout.lock_file.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StateInUseError(
            f"another stack runs on {layout.root} (process {owner}); end it, or choose another --state-dir"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
