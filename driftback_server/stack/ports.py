"""The ports of a stack, all on loopback, moved together by an offset."""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields

from driftback_server.stack.errors import PortTakenError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """A port per process; chat and guidance are the example services of the demo."""

    exporter: int = 9810
    config_rollback: int = 9811
    chat: int = 9821
    guidance: int = 9822
    prometheus: int = 9090
    alertmanager: int = 9093
    grafana: int = 3000

    def shifted(self, offset: int) -> Ports:
        """The same ports, each `offset` higher; raises ValueError if one would be outside 1 to 65535."""
        moved = {field.name: getattr(self, field.name) + offset for field in fields(self)}
        for name, port in moved.items():
            if not 1 <= port <= 65535:
                raise ValueError(f"--port-offset {offset} puts {name} on port {port}, outside 1 to 65535")
        return Ports(**moved)

    def url(self, name: str) -> str:
        """The base URL of the process called `name`."""
        return f"http://{LOOPBACK}:{getattr(self, name)}"

    def require_free(self, names: list[str]) -> None:
        """Raises PortTakenError that names every port in use, and by which process it is needed."""
        taken = [f"{getattr(self, name)} (for {name})" for name in names if not _free(getattr(self, name))]
        if taken:
            raise PortTakenError(
                f"in use already on {LOOPBACK}: port {', port '.join(taken)}. End what uses it, or move the "
                "whole stack with --port-offset N."
            )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT after a stop is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
