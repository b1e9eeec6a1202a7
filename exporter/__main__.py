"""`python -m exporter`: serve with the settings of the environment until SIGTERM or SIGINT.

SIGHUP reads the label policy and the file of tokens again.
"""

import argparse
import asyncio
import signal
import socket
import sys
import time

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from driftback import __version__
from exporter import logs
from exporter.app import Application
from exporter.errors import SettingsError, StartError
from exporter.http.listener import ListenError, listen
from exporter.http.server import Server
from exporter.settings import PREFIX, Settings, load_settings

GRACE_SECONDS = 10

_log = structlog.get_logger("exporter")


def main() -> int:
    """Run the exporter. Returns 0 after a signal, 1 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Takes what services count, keeps it on disk, and shows it to Prometheus on /metrics.",
        epilog="Settings are environment variables that begin with EXPORTER_. docs/exporter.md explains all; "
        "EXPORTER_STATE_DIR and EXPORTER_INGEST_TOKENS (or _FILE) are needed.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args()
    logs.configure()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    for number in (signal.SIGTERM, signal.SIGINT):  # while the journal is read
        signal.signal(number, lambda *_: sys.exit(0))
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    try:
        settings = load_settings()
        listener = _listen(settings)
        application = Application(settings, registry, time.time)
    except StartError as error:
        _log.error("exporter_cannot_start", reason=error.message)
        return 1
    asyncio.run(_serve(application, listener, settings.max_connections))
    return 0


async def _serve(application: Application, listener: socket.socket, max_connections: int) -> None:
    server = Server(application, max_connections)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, application.reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    async with application.running():
        host, port = listener.getsockname()[:2]
        _log.info("exporter_listening", host=host, port=port)
        await server.serve(listener, GRACE_SECONDS)


def _listen(settings: Settings) -> socket.socket:
    """A listening socket, taken before the state folder is touched. Raises SettingsError."""
    try:
        return listen(settings.host, settings.port, settings.max_connections, PREFIX)
    except ListenError as error:
        raise SettingsError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
