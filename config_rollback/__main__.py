"""`python -m config_rollback`: the service, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from socket import socket

import structlog
from starlette.applications import Starlette

from config_rollback.app import create_app
from config_rollback.errors import SettingsError
from config_rollback.server import AsgiServer
from config_rollback.settings import PREFIX, load
from config_rollback.web.dependencies import Dependencies
from driftback import __version__
from exporter import logs
from exporter.http.listener import ListenError, listen
from exporter.http.server import Server

log = structlog.get_logger(__name__)

STOP_SECONDS = 5
"""How long a stop waits for answers in progress."""


async def serve(app: Starlette, listener: socket) -> int:
    """Answer until a signal. The exit code: 0, 1 after an error, 3 where the service could not start."""
    deps: Dependencies = app.state.dependencies
    application = AsgiServer(app, deps.metrics)
    server = Server(application, deps.settings.max_connections)

    def stop() -> None:
        deps.delivery.close()  # lets waiting long polls answer before the stop waits for them
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    started = False
    try:
        async with app.router.lifespan_context(app):
            started = True
            await server.serve(listener, STOP_SECONDS)
            await application.close(STOP_SECONDS)
    except Exception:
        log.exception("stopped_by_an_error" if started else "cannot_start")
        return 1 if started else 3
    return 0


def main() -> int:
    """Exit code 2 for unusable settings, else that of `serve`."""
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
        logging.getLogger("alembic").setLevel(logging.WARNING)
        listener = listen(settings.host, settings.port, settings.max_connections, PREFIX)
        app = create_app(settings)
    except (SettingsError, ListenError) as error:
        sys.stderr.write(f"config_rollback: {error}\n")
        return 2
    return asyncio.run(serve(app, listener))


if __name__ == "__main__":
    sys.exit(main())
