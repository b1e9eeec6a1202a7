"""Security cases 49 and 57 to 59: slow and malformed HTTP, log lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable

import pytest
import requests
from starlette.types import Message, Receive, Scope, Send

from config_rollback.web import http
from config_rollback.web.middleware import SECURITY_HEADERS, RequestContext
from exporter.http import connection as http_connection
from exporter.http.reader import MAX_PIPELINED
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Service
from tests.exporter.http.test_connection import ends

SLOW_CLIENTS = 200
NEVER = 600.0


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 30)


def read_to_end(client: socket.socket) -> bytes:
    """What comes until the server ends the connection, be it before our last bytes: then it resets it."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            answer += chunk
    return answer


def exchange(service: Service, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to exactly these bytes; reads until the server closes."""
    with connect(service) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), body


def refusal(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, headers, body = answer
    content = json.loads(body)
    assert content["request_id"] == headers["x-request-id"]
    return status, content["error"]["code"]


POST = b"POST /v1/ops/personas/p/versions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def authorised(service: Service) -> bytes:
    return POST + f"Authorization: Bearer {service.token()}\r\n".encode()


@pytest.mark.parametrize(
    "beginning", [b"", b"GET / HTTP/1.1\r\nHost:", b"BODY"], ids=["silent", "half a head", "half a body"]
)
def test_57_slow_clients_keep_nobody_waiting(
    service: Service, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", NEVER)
    monkeypatch.setattr(http, "BODY_SECONDS", NEVER)
    if beginning == b"BODY":
        beginning = authorised(service) + b"Content-Length: 1000\r\n\r\n{"
    clients = [connect(service) for _ in range(SLOW_CLIENTS)]
    try:
        for client in clients:
            client.sendall(beginning)
        assert requests.get(f"{service.url}/-/healthy", timeout=30).status_code == 200
    finally:
        for client in clients:
            client.close()


def test_57_a_head_that_does_not_come_ends_the_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(service) as client:
        client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
        client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost:")
        read_to_end(client)
    for beginning in (b"", b"GET / HTTP/1.1\r\nHost:"):
        with connect(service) as client:
            client.sendall(beginning)
            assert read_to_end(client) == b""


def test_57_a_body_that_does_not_come_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.2)
    answer = exchange(service, authorised(service) + b"Content-Length: 1000\r\n\r\n{")
    assert refusal(answer) == (408, "request_timeout")
    assert service.audit() == []


def test_a_client_that_goes_away_is_no_error(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with connect(service) as client:
        client.sendall(authorised(service) + b"Content-Length: 1000\r\n\r\n{")
        time.sleep(0.1)
    deadline = time.monotonic() + 30
    while "client_disconnected" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "internal_error" not in caplog.text


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Content-Length: -1\r\n",
    ],
)
def test_58_a_body_with_two_lengths_is_refused(service: Service, lengths: bytes) -> None:
    for body in (b"{}", b"2\r\n{}\r\n0\r\n\r\n"):
        answer = exchange(service, authorised(service) + lengths + b"\r\n" + body)
        assert answer[0] in (400, 501)
        assert refusal(answer)[1] == "invalid_request"
    assert service.audit() == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\rb\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=[
        "no host",
        "two hosts",
        "a NUL",
        "a space before the colon",
        "a folded line",
        "a bare CR",
        "nonsense",
    ],
)
def test_malformed_heads_are_refused_in_the_shape_of_the_contract(service: Service, head: bytes) -> None:
    answer = exchange(service, head)
    assert refusal(answer) == (400, "invalid_request")
    every = {name.lower(): value.lower() for name, value in SECURITY_HEADERS.items()}
    assert answer[1].items() >= (every | {"cache-control": "no-store"}).items()


def test_a_target_without_a_path_is_that_of_the_first_page(service: Service) -> None:
    """RFC 9110, section 4.2.3."""
    rest = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert exchange(service, b"GET http://x" + rest)[0] == exchange(service, b"GET /" + rest)[0] == 303


def test_a_request_whose_sender_ends_its_side_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "HALF_CLOSED_SECONDS", 60.0)
    with connect(service) as client:
        client.sendall(authorised(service) + b"Content-Length: 2\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).startswith(b"HTTP/1.1 4")


def test_49_a_body_over_the_limit_is_refused_declared_or_chunked(service: Service) -> None:
    declared = exchange(service, authorised(service) + b"Content-Length: 9999999\r\n\r\n")
    assert refusal(declared) == (413, "body_too_large")
    sent = exchange(service, authorised(service) + b"Content-Length: 6000000\r\n\r\n" + b" " * 6_000_000)
    assert refusal(sent) == (413, "body_too_large")
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    ended = authorised(service) + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n"
    assert refusal(exchange(service, ended)) == (413, "body_too_large")
    assert service.audit() == []


def test_59_line_breaks_in_ids_stay_in_one_log_line(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forged = '%0d%0a{"event":"audit_appended","audit_id":99}'
    service.request("GET", f"/v1/ops/personas/{forged}/versions")
    service.request("GET", f"/{forged}", headers={"X-Request-ID": "a b"})
    service.request("GET", "/v1/ops/personas", headers={"X-Request-ID": forged})
    service.roll_back("p", expected_version=1, reason="a\r\nb", alert="x")
    deadline, events = time.monotonic() + 30, list[str]()
    while len(events) < 5:  # a request's own line comes after its answer
        assert time.monotonic() < deadline
        events = [record.getMessage() for record in caplog.records if record.name.startswith("config_")]
    for line in events:
        assert "\n" not in line
        assert "\r" not in line
        assert json.loads(line).get("audit_id") != 99


HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


def refused(service: Service, code: str) -> float:
    """How many requests and connections were refused with this code."""
    found: float | None = service.app.state.dependencies.metrics.registry.get_sample_value(
        "config_requests_refused_total", {"code": code}
    )
    assert found is not None
    return found


def test_61_a_connection_with_too_many_pipelined_requests_ends(service: Service) -> None:
    with connect(service) as client:
        client.sendall(HEALTHY * (MAX_PIPELINED + 100))
        answers = read_to_end(client).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == MAX_PIPELINED + 2
    assert answers[-1].startswith(b"429 ")
    assert json.loads(answers[-1].partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_pipelined"
    assert refused(service, "too_many_pipelined") == 1


def test_61_requests_without_end_end_the_connection(service: Service) -> None:
    with connect(service) as client:
        assert ends(client, HEALTHY * 1000)
    assert refused(service, "too_many_pipelined") == 1


def test_61_a_connection_too_many_takes_the_place_of_an_idle_one(start: Callable[..., Service]) -> None:
    service = start(max_connections=4)
    held = [connect(service) for _ in range(4)]
    try:
        for client in held:
            client.sendall(HEALTHY)
            assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        assert requests.get(f"{service.url}/-/healthy", timeout=30).status_code == 200
        assert read_to_end(held[0]) == b""
    finally:
        for client in held:
            client.close()
    registry = service.app.state.dependencies.metrics.registry
    assert registry.get_sample_value("config_connections_evicted_total") == 1
    assert refused(service, "too_many_connections") == 0


def test_61_a_call_is_over_when_its_connection_has_refused_it(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", NEVER)
    service = start(max_connections=4)
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    for _ in range(8):
        with connect(service) as client:
            client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            time.sleep(0.1)  # the call waits for the rest
            client.sendall(b"zz\r\n")
            assert b" 400 " in read_to_end(client).split(b"\r\n")[0]
    assert requests.get(f"{service.url}/-/healthy", timeout=30).status_code == 200


def test_61_requests_whose_connections_are_gone_are_bounded_too(start: Callable[..., Service]) -> None:
    here = start(max_connections=4).app.state.dependencies
    statuses: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(NEVER)

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def run() -> None:
        context = RequestContext(slow, here)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        waiting = [asyncio.create_task(context(dict(scope), nothing, answer)) for _ in range(4)]
        await asyncio.sleep(0)
        await context(dict(scope), nothing, answer)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    asyncio.run(run())
    assert statuses == [429]


def test_more_headers_than_may_be_are_refused_and_counted(service: Service) -> None:
    head = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n" + b"X:\r\n" * 100 + b"\r\n"
    assert refusal(exchange(service, head)) == (400, "invalid_request")
    assert refused(service, "invalid_request") == 1
