"""Servers and one load generator, each pinned to a core of its own, so that neither slows the other.

The generator is the same for all servers: raw sockets, one request outstanding per connection, requests built
before the clock starts. It is a process of its own and takes about 12 microseconds of CPU for a request and
its answer; the CPU that it used is returned, so that a run in which it was the bottleneck shows.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from benchmarks.processes import ENDS_WITH_PARENT
from driftback_server.stack.components import ensure

ROOT = Path(__file__).resolve().parents[1]
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
TOKEN = "an-ingest-token-for-benchmarks"
JWT_SECRET = "a signing key for benchmarks, 32 bytes"
HEADERS = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"


class Server(NamedTuple):
    """Where a server listens, and its process id."""

    port: int
    pid: int


class Load(NamedTuple):
    """What a run of the generator saw."""

    requests_per_second: float
    latencies: list[float]
    """Seconds from request to answer, of all requests."""
    busy: float
    """Share of its core that the generator itself used: near 1, it was the bottleneck."""


@contextlib.contextmanager
def exporter(**environment: str) -> Iterator[Server]:
    """`python -m exporter` on the server's core, its journal on this disk."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        port = free_port()
        own = {
            "EXPORTER_STATE_DIR": folder,
            "EXPORTER_PORT": str(port),
            "EXPORTER_INGEST_TOKENS": TOKEN,
            **environment,
        }
        with _server([sys.executable, "-m", "exporter"], port, own) as pid:
            # It listens before it has read its state: what it does until then is not part of a push.
            urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=20).close()
            yield Server(port, pid)


@contextlib.contextmanager
def config_rollback(folder: Path) -> Iterator[Server]:
    """`python -m config_rollback` on the server's core, with the SQLite database in `folder`."""
    port = free_port()
    own = {
        "CONFIG_ROLLBACK_STATE_DIR": str(folder),
        "CONFIG_ROLLBACK_PORT": str(port),
        "CONFIG_ROLLBACK_EXTERNAL_URL": f"http://127.0.0.1:{port}",
        "CONFIG_ROLLBACK_JWT_SECRET": JWT_SECRET,
        "CONFIG_ROLLBACK_SERVICE_TOKENS": TOKEN,
        # A benchmark calls as one person, faster than any.
        **{f"CONFIG_ROLLBACK_RATE_LIMIT_{name}": "1000000/minute" for name in ("USER", "ROLE", "GLOBAL")},
    }
    with _server([sys.executable, "-m", "config_rollback"], port, own) as pid:
        yield Server(port, pid)


@contextlib.contextmanager
def pushgateway(*options: str) -> Iterator[Server]:
    """A Pushgateway on the server's core."""
    port = free_port()
    program = ensure(["pushgateway"])["pushgateway"]
    command = [str(program), f"--web.listen-address=127.0.0.1:{port}", "--log.level=error", *options]
    with _server(command, port, {"GOMAXPROCS": "1"}) as pid:
        yield Server(port, pid)


@contextlib.contextmanager
def program(module: str, *arguments: str) -> Iterator[int]:
    """Port of `python -m module PORT ...` on the server's core."""
    port = free_port()
    with _server([sys.executable, "-m", module, str(port), *arguments], port, {}):
        yield port


@contextlib.contextmanager
def _server(command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        [*ENDS_WITH_PARENT, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    try:
        _wait_for(port, process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start") from None
            time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    """User and system CPU that a process has used so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Request = Callable[[int, int], bytes]
"""The bytes of request number n of connection c."""


def load(port: int, connections: int, seconds: float, request: Request, prepared: int = 4000) -> Load:
    """Keep one request outstanding on each connection for so long, from a process on the load's core.

    `prepared` requests are built per connection beforehand; the run ends early when they are used up.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_generate, args=(sender, port, connections, seconds, request, prepared))
    process.start()
    sender.close()  # so that a generator that fails ends the wait
    result: Load = receiver.recv()
    process.join()
    return result


def _generate(
    sender: "multiprocessing.connection.Connection[Load, Load]",
    port: int,
    connections: int,
    seconds: float,
    request: Request,
    prepared: int,
) -> None:
    os.sched_setaffinity(0, {LOAD_CORE})
    # Built first: a server does not wait for ever for the first request of a connection.
    built = [[request(c, n) for n in range(prepared)] for c in range(connections)]
    todo = {}
    for requests in built:
        connection = socket.create_connection(("127.0.0.1", port))
        todo[connection.fileno()] = (connection, iter(requests))
    poll = select.epoll()
    sent: dict[int, float] = {}
    latencies: list[float] = []
    started, cpu = time.perf_counter(), time.process_time()
    deadline = started + seconds
    for fd, (connection, waiting) in todo.items():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(fd, select.EPOLLIN)
        sent[fd] = time.perf_counter()
        connection.sendall(next(waiting))
    now = started
    while now < deadline:
        for fd, _ in poll.poll(1):
            connection, waiting = todo[fd]
            _check(_answer(connection))
            now = time.perf_counter()
            latencies.append(now - sent[fd])
            following = next(waiting, None)
            if following is None:
                deadline = 0.0
                break
            sent[fd] = now
            connection.sendall(following)
    took = time.perf_counter() - started
    sender.send(Load(len(latencies) / took, latencies, (time.process_time() - cpu) / took))


def _answer(connection: socket.socket) -> bytes:
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"content-length: ")
    length = int(rest.partition(b"\r\n")[0]) if found else 0
    while len(body) < length:
        body += connection.recv(65536)
    return answer


def _check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"refused: {answer[:300]!r}")


def post(path: str, body: bytes, extra: str = "") -> bytes:
    """A request with our token and a JSON body."""
    head = f"POST {path} HTTP/1.1\r\n{HEADERS}{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def push_request(series: Sequence[dict[str, object]], run: int) -> Request:
    """Pushes of the same deltas: each connection is a client, each push has the next number."""
    items = json.dumps(series, separators=(",", ":")).encode()

    def request(connection: int, number: int) -> bytes:
        head = b'{"client":"c%d","epoch":%d,"seq":%d,"series":' % (connection, run, number + 1)
        return post("/v1/push", head + items + b"}")

    return request
