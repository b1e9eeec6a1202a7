"""Many clients of one persona: how soon all have a restored configuration, and what their waiting costs."""

import contextlib
import multiprocessing
import multiprocessing.connection
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import requests

from benchmarks import servers
from benchmarks.config_rollback_state import PERSONA, Operator, percentile, served
from benchmarks.processes import resident
from benchmarks.row import Row, absolute
from config_rollback.auth.sessions import cookie_name
from config_rollback.auth.tokens import mint_login_link
from driftback import Active, ConfigClient

CLIENTS = 200
FOLLOWERS = 4
"""Processes that the clients are spread over."""
CLICKS = 20
POLLS = 1000
PAGES = 100
MIB = 1 << 20

Pipe = multiprocessing.connection.Connection


def rows() -> Iterator[Row]:
    """Click to restored configuration; then the page, and memory, with many long polls."""
    _allow_files()
    yield from _click_to_converged()
    yield from _waiting()


def _click_to_converged() -> Iterator[Row]:
    received: list[float] = []
    counted: list[float] = []
    with served(2) as server, tempfile.TemporaryDirectory() as folder:
        operator = Operator(server.port)
        pipes = [_follow(server.port, Path(folder) / str(n)) for n in range(FOLLOWERS)]
        active = 2
        _wait_for_count(operator, active)
        for _ in range(CLICKS):
            started = time.monotonic()
            active = operator.roll_back(active, 3 - active)
            _wait_for_count(operator, active)
            counted.append(time.monotonic() - started)
            for pipe in pipes:
                pipe.send(active)
                received += [(moment - started) * 1000 for moment in pipe.recv()]
        for pipe in pipes:
            pipe.send(None)
        operator.close()
    name = f"click to restored config at {CLIENTS} connected clients"
    note = f"{CLICKS} rollbacks; ConfigClient in {FOLLOWERS} processes, up to its callback."
    yield absolute(f"{name}, p99", percentile(received, 0.99), "ms", "<=", 1000, note)
    yield absolute(
        f"click until the service counts all {CLIENTS} on it, p99",
        percentile(counted, 0.99) * 1000,
        "ms",
        "<=",
        2000,
    )


def _follow(port: int, folder: Path) -> "Pipe[int | None, list[float]]":
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=_follower, args=(theirs, port, folder), daemon=True).start()
    return ours


def _follower(pipe: "Pipe[list[float], int | None]", port: int, folder: Path) -> None:
    """Runs its share of clients; asked for a version, tells when each got it."""
    moments: dict[int, list[float]] = {1: [], 2: []}

    def note(active: Active) -> None:
        moments[active.version].append(time.monotonic())

    share = CLIENTS // FOLLOWERS
    clients = [
        ConfigClient(
            f"http://127.0.0.1:{port}",
            token=servers.TOKEN,
            persona=PERSONA,
            cache_dir=folder / str(number),
            on_change=note,
        )
        for number in range(share)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.wait_ready(60)
    moments[2].clear()
    while (version := pipe.recv()) is not None:
        while len(moments[version]) < share:
            time.sleep(0.001)
        pipe.send(moments[version][:])
        moments[version].clear()
    for client in clients:
        client.close()


def _wait_for_count(operator: Operator, version: int) -> None:
    line = f'config_clients{{config_version="{version}",persona="{PERSONA}"}} {float(CLIENTS)}'
    deadline = time.monotonic() + 60
    while line not in operator.metrics():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all clients came to version {version}")


def _waiting() -> Iterator[Row]:
    with served(2) as server, contextlib.ExitStack() as stack:
        operator = Operator(server.port)
        browser = _browser(server.port)
        page = f"{operator.url}/rollback/{PERSONA}?from=2"
        for _ in range(10):
            browser.get(page, timeout=30).raise_for_status()
        before = resident(server.pid)
        for number in range(POLLS):
            stack.enter_context(_long_poll(server.port, number))
        deadline = time.monotonic() + 30
        while f"config_long_polls {float(POLLS)}" not in operator.metrics():
            if time.monotonic() > deadline:
                raise RuntimeError("not all long polls wait")
        took = []
        for _ in range(PAGES):
            started = time.perf_counter()
            browser.get(page, timeout=30).raise_for_status()
            took.append((time.perf_counter() - started) * 1000)
        grown = (resident(server.pid) - before) / MIB
        browser.close()
        operator.close()
    yield absolute(
        f"rollback page with {POLLS:,} long polls waiting, p99",
        percentile(took, 0.99),
        "ms",
        "<=",
        200,
        "Without Prometheus: how long that takes is its own affair, and bounded by 2 s.",
    )
    yield absolute(f"memory of {POLLS:,} long polls", grown, "MiB", "<=", 100, "Growth of the resident set.")


def _long_poll(port: int, number: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    path = f"/v1/personas/{PERSONA}/config"
    connection.sendall(f"GET {path} HTTP/1.1\r\n{servers.HEADERS}\r\n".encode())
    head = connection.recv(65536).decode()
    tag = head.lower().partition("etag: ")[2].partition("\r\n")[0]
    query = f"?wait=60&client=process-{number}&serving=2"
    connection.sendall(
        f"GET {path}{query} HTTP/1.1\r\n{servers.HEADERS}If-None-Match: {tag}\r\n\r\n".encode()
    )
    return connection


def _browser(port: int) -> requests.Session:
    url = f"http://127.0.0.1:{port}"
    link = mint_login_link(servers.JWT_SECRET, subject="bench", external_url=url)
    session = requests.Session()
    token = parse_qs(urlsplit(link).query)["token"][0]
    answer = session.post(
        f"{url}/login",
        data={"token": token},
        headers={"Sec-Fetch-Site": "same-origin", "Origin": url},
        allow_redirects=False,
        timeout=10,
    )
    if cookie_name(url) not in answer.cookies:
        raise RuntimeError(f"no session: {answer.status_code} {answer.text[:200]}")
    return session


def _allow_files() -> None:
    """As many open files as the machine lets this process and its children have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
