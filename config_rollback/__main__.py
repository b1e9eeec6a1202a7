"""`python -m config_rollback`: the service, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from socket import socket

import uvicorn

from config_rollback import logs
from config_rollback.app import create_app
from config_rollback.errors import SettingsError
from config_rollback.server import Protocol
from config_rollback.settings import PREFIX, Settings, load
from config_rollback.web.dependencies import Dependencies
from driftback import __version__
from exporter.listener import ListenError, listen

STOP_SECONDS = 5
"""How long a stop waits for answers in progress."""


class Server(uvicorn.Server):
    """Lets waiting long polls answer before a stop waits for them."""

    def __init__(self, config: uvicorn.Config, deps: Dependencies) -> None:
        super().__init__(config)
        self._deps = deps

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Called once, when the server was told to stop."""
        self._deps.delivery.close()
        await super().shutdown(sockets)


def create_server(settings: Settings) -> Server:
    """The server, not yet started."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=partial(Protocol, app.state.dependencies),  # type: ignore[arg-type]  # a class for all it does
        ws="none",
        log_config=None,
        access_log=False,  # `RequestContext` logs requests, without their queries
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return Server(config, app.state.dependencies)


def main() -> int:
    """Exit code 2 for unusable settings, 3 where the server could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m config_rollback",
        description="Keeps persona configurations and rolls them back, audited: API, pages and delivery.",
        epilog="Settings are environment variables that begin with CONFIG_ROLLBACK_. docs/reference.md "
        "lists all; CONFIG_ROLLBACK_STATE_DIR or _DATABASE_URL, and _JWT_SECRET (or _FILE) are needed.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args()
    os.umask(0o077)  # what it writes holds configurations and sessions
    try:
        settings = load()
        logs.configure()
        listener = listen(settings.host, settings.port, settings.max_connections, PREFIX)
        server = create_server(settings)
    except (SettingsError, ListenError) as error:
        sys.stderr.write(f"config_rollback: {error}\n")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn handles the signal, stops, and then raises it once more for whoever was there before.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
