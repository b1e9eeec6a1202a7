"""Exporters for tests: in a thread, with the test's clock, or as a process that can be killed."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import requests
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from exporter.app import Application
from exporter.http.connection import Connection
from exporter.http.listener import listen
from exporter.http.server import Server
from exporter.settings import PREFIX, Settings

TOKEN = "an-ingest-token-for-tests"


class Clock:
    """Unix time that stands still until it is moved; setting `now` alone is a jump of the system's clock."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self._passed = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Seconds that have passed, whatever the system's clock says."""
        return self._passed

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self._passed += seconds


class Client:
    """What a test asks of an exporter, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(
        self, path: str, body: Any, token: str | None = TOKEN, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """POST a body: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = {"Content-Type": "application/json", **(headers or {})}
        if token is not None:
            all_headers["Authorization"] = f"Bearer {token}"
        return requests.post(self.url + path, data=content, headers=all_headers, timeout=10)

    def push(
        self, *series: Mapping[str, Any], seq: int = 1, client: str = "c", epoch: int = 1, **more: Any
    ) -> Any:
        """Push series that must be taken; the `data` of the answer."""
        body = {"client": client, "epoch": epoch, "seq": seq, "series": series, **more}
        response = self.post("/v1/push", body)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def scrape(self, **headers: str) -> str:
        """The exposition."""
        response = requests.get(self.url + "/metrics", headers=headers, timeout=10)
        assert response.status_code == 200
        return response.text

    def journal(self) -> str:
        """The journal id."""
        return str(requests.get(self.url + "/-/ready", timeout=10).json()["data"]["journal"])

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with this name and at least these labels, None if there are none."""
        return sample(self.scrape(), name, **labels)


def sample(exposition: str, name: str, **labels: str) -> float | None:
    """The sum of the samples with this name and at least these labels, None if there are none."""
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in exposition.splitlines()
        if line.partition("{")[0].partition(" ")[0] == name
        and all(f'{label}="{value}"' in line for label, value in labels.items())
    ]
    return sum(values) if values else None


class Running(Client):
    """An exporter in a thread of the test; with `tls`, as behind a proxy that ends it."""

    def __init__(self, settings: Settings, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self.registry = CollectorRegistry()
        self._application = Application(settings, self.registry, clock, clock.monotonic)
        self._max_connections = settings.max_connections
        self._listener = listen(settings.host, settings.port, settings.max_connections, PREFIX)
        self._tls = tls
        self._serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._serving.wait(20)
        super().__init__(f"http://127.0.0.1:{self._listener.getsockname()[1]}")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = Server(self._application, self._max_connections)
        async with self._application.running():
            if self._tls is None:
                self._serving.set()
                await self._server.serve(self._listener, 10)
                return
            factory = partial(Connection, self._server)
            behind_tls = await self._loop.create_server(factory, sock=self._listener, ssl=self._tls)
            self._serving.set()
            with listen("127.0.0.1", 0, 1, PREFIX) as unused:
                await self._server.serve(unused, 10)
            behind_tls.close()

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have arrived with their bodies, and are being handled."""
        wait_for(lambda: self.being_answered() >= count)
        for _ in range(3):
            requests.get(self.url + "/-/healthy", timeout=10)

    def being_answered(self) -> int:
        """How many connections have sent a request that is being handled."""
        return sum(not connection.is_waited_for for connection in list(self._server.connections))

    def unread(self) -> int:
        """How many connections wait for their peers to read."""
        return sum(connection.waiting_since < inf for connection in list(self._server.connections))

    def connections(self) -> int:
        """How many connections it holds."""
        return len(self._server.connections) + len(self._server.leaving)

    def close_connections(self) -> None:
        """Close every connection, as if all were idle too long."""
        for connection in list(self._server.connections):
            self._loop.call_soon_threadsafe(connection.close)

    def stop(self) -> None:
        """Stop gracefully."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.stop)
            self._thread.join()


class Process(Client):
    """`python -m exporter`, whose log lines are read as they come."""

    def __init__(self, state_dir: Path, **environment: str) -> None:
        own = {
            "EXPORTER_STATE_DIR": str(state_dir),
            "EXPORTER_PORT": "0",
            "EXPORTER_INGEST_TOKENS": TOKEN,
            **environment,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPORTER_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter"], env={**inherited, **own}, stderr=subprocess.PIPE, text=True
        )
        self.log: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_for(lambda: self.event("exporter_listening") or self.process.poll() is not None)
        listening = self.event("exporter_listening")
        super().__init__(f"http://127.0.0.1:{listening['port']}" if listening else "")

    def event(self, name: str) -> dict[str, Any] | None:
        """The first log line of this event, if it was seen."""
        return next((line for line in self.log if line["event"] == name), None)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def served_by_two_workers(command: list[str], port: int, folder: Path, exporter: Client) -> int:
    """Run a service there until 50 requests and both workers were answered, and end it; how many requests.

    It answers with the name of the worker.
    """
    environment = {**os.environ, "EXPORTER_URL": exporter.url, "EXPORTER_TOKEN": TOKEN}
    server = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    sent = 0
    workers: set[str] = set()
    try:
        deadline = time.monotonic() + 60
        while len(workers) < 2 or sent < 50:
            assert time.monotonic() < deadline
            try:
                workers.add(requests.get(f"http://127.0.0.1:{port}/", timeout=10).text)
                sent += 1
            except requests.ConnectionError:
                time.sleep(0.05)
    finally:
        server.terminate()
        server.wait(timeout=30)
    return sent


def settings_for(state_dir: Path, **changes: Any) -> Settings:
    """Settings that depend on nothing but the arguments."""
    values: dict[str, Any] = {"state_dir": state_dir, "port": 0, "ingest_tokens": SecretStr(TOKEN), **changes}
    return Settings(**values)


def series(
    journey: str = "chat",
    persona: str = "concierge",
    config_version: str = "1",
    messages: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A series item of a push, its messages all in the second bucket unless `latency` says otherwise."""
    item: dict[str, Any] = {"journey": journey, "persona": persona, "config_version": config_version}
    if messages:
        item |= {"messages": messages, "latency": {"sum": 0.055 * messages, "buckets": {"1": messages}}}
    return item | more
