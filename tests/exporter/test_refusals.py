"""Bad input: each is refused with its code, nothing of it is counted, and the exporter goes on."""

import gzip
import json
import re
import select
import socket
import time
from typing import Any

import pytest
import requests

from exporter.http import connection as http_connection
from exporter.http.reader import MAX_PIPELINED
from tests.exporter.http.test_connection import HEAD, connect
from tests.exporter.running import TOKEN, Running, series

PUSH: dict[str, Any] = {"client": "c", "epoch": 1, "seq": 1}


def body(*items: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**PUSH, "series": [series(persona="good", messages=1), *items], **more}).encode()


def refused(exporter: Running, response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Check the shape of a refusal, and that it left no trace but its count."""
    content: dict[str, Any] = response.json()
    assert (response.status_code, content["error"]["code"]) == (status, code)
    assert content["error"]["message"]
    assert content["request_id"] == response.headers["X-Request-ID"]
    assert exporter.value("conversation_messages_total") is None
    assert exporter.value("exporter_rejected_total", reason=code) == 1
    assert exporter.value("exporter_pushes_total", result="rejected") == 1
    assert exporter.push(series(messages=1))["duplicate"] is False
    return content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        body() + b"x",
        body().replace(b'"epoch": 1', b'"epoch": NaN'),
        body().replace(b'"good"', b'"\\ud800"'),
        body().replace(b'"good"', b'"\\udc00\\ud800"'),
        body().replace(b'"good"', b'"\xed\xa0\x80"'),
        body().replace(b'"good"', b'"\xff"'),
        b"[" * 10_000 + b"]" * 10_000,
        b'{"series":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"client": 7, "epoch":',
        body().replace(b'"seq": 1', b'"seq": 1, "seq": 2'),
        body(series(llm_errors={"timeout": 1})).replace(b'"timeout": 1', b'"timeout": 1, "timeout": 1'),
    ],
    ids=[
        "nothing",
        "cut short",
        "no JSON",
        "something behind it",
        "NaN",
        "a lone surrogate",
        "swapped surrogates",
        "an encoded surrogate",
        "not UTF-8",
        "an array 10,000 deep",
        "an object 10,000 deep",
        "cut short behind a wrong type",
        "a key twice",
        "a reason twice",
    ],
)
def test_what_is_not_json(exporter: Running, content: bytes) -> None:
    refused(exporter, exporter.post("/v1/push", content), 400, "invalid_json")


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        body(mood="good"),
        body(series(mood="good")),
        body(seq=0),
        body(seq=2**63),
        body(seq="1"),
        body(epoch=-1),
        body(client=""),
        body(client="c" * 129),
        body(dropped=True),
        body(series(messages=-1)),
        body(series(messages=True)),
        body(series() | {"messages": 1.5}),
        body(series(messages=10**13)),
        body(series(messages=2**64)),
        body(series(tokens={"input": 10**12 + 1})),
        body(series(tokens={"output": 2**70})),
        body(series(messages=1, latency={"sum": 2e12, "buckets": {"1": 1}})),
        body(series(ttft={"sum": 2e12, "buckets": {"1": 1}})),
        body(series(ttft={"sum": 1.0, "buckets": {"1": 10**12 + 1}})),
        body(dropped=10**12 + 1),
        body(series(messages=1, latency={"sum": -1.0, "buckets": {"1": 1}})),
        body(series(messages=1, latency={"sum": True, "buckets": {"1": 1}})),
        body(series(messages=1)).replace(b"0.055", b"1e999"),
        body(series(messages=1, latency={"sum": 1.0, "buckets": {"45": 1}})),
        body(series(messages=1, latency={"sum": 1.0, "buckets": {"-1": 1}})),
        body(series(messages=1, latency={"sum": 1.0, "buckets": {"x": 1}})),
        body(series(messages=1, latency={"sum": 1.0, "buckets": {"1": -1}})),
        body(series(messages=2, latency={"sum": 1.0, "buckets": {"1": 1}})),
        body(series(latency={"sum": 1.0, "buckets": {"1": 1}})),
        body({**series(), "messages": 1}),
        body(series(messages=1, out_of_scope=1, llm_errors={"timeout": 1})),
        body(series("guidance", messages=1, out_of_scope=1)),
        body(series(persona="")),
        body(series(persona="p" * 129)),
        body(series(persona="a\0b")),
        body({"journey": "chat", "persona": "p"}),
        body(series(tokens={"input": -1})),
        body(series(tokens={"thoughts": 1})),
    ],
)
def test_what_is_json_but_no_push(exporter: Running, content: bytes) -> None:
    refused(exporter, exporter.post("/v1/push", content), 422, "invalid_request")


@pytest.mark.parametrize(
    "item",
    [series("moon", messages=1), series("moon"), series(messages=1, llm_errors={"moon": 1})],
    ids=["an unknown journey", "an unknown journey declared", "an unknown reason"],
)
def test_labels_outside_the_allow_lists_are_named(exporter: Running, item: dict[str, Any]) -> None:
    content = refused(
        exporter, exporter.post("/v1/push", body(item, series(), item)), 422, "label_not_allowed"
    )
    assert content["error"]["details"]["items"] == [1, 3]


def test_the_position_of_a_wrong_type_is_named(exporter: Running) -> None:
    response = exporter.post("/v1/push", body(series(), series(messages=-1)))
    assert refused(exporter, response, 422, "invalid_request")["error"]["details"]["items"] == [2]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": ""}, 401, "unauthenticated"),
        ({"Authorization": "Bearer"}, 401, "unauthenticated"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "unauthenticated"),
        ({"Authorization": "Bearer wrong"}, 401, "token_invalid"),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401, "token_invalid"),
        ({"Authorization": "Bearer \xe4\xf6\xfc"}, 401, "token_invalid"),
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": ""}, 415, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
    ],
    ids=lambda value: str(value),
)
def test_headers(exporter: Running, headers: dict[str, str], status: int, code: str) -> None:
    response = exporter.post(
        "/v1/push", body(), headers=headers, token=None if "Authorization" in headers else TOKEN
    )
    refused(exporter, response, status, code)
    assert (response.headers.get("WWW-Authenticate") == "Bearer") == (status == 401)


def test_a_compressed_bomb_is_not_unpacked(exporter: Running) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    response = exporter.post("/v1/push", bomb, headers={"Content-Encoding": "gzip"})
    refused(exporter, response, 415, "unsupported_encoding")


def until_closed(connection: socket.socket) -> str:
    """All that the server sends: head and body may come in different packets."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")


def exchange(exporter: Running, request: bytes) -> str:
    """Send bytes as they are; all that is answered until the server closes."""
    with connect(exporter) as connection:
        connection.sendall(request)
        return until_closed(connection)


def raw(exporter: Running, request: bytes) -> tuple[int, str]:
    """Send bytes as they are; the status and the rest of the answer."""
    with connect(exporter) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = until_closed(connection)
    return int(answer.split(" ", 2)[1]), answer


def test_a_declared_length_over_the_limit_is_refused_before_the_body(exporter: Running) -> None:
    status, answer = raw(exporter, f"{HEAD}Content-Length: {5 * 1024**2}\r\n\r\n".encode())
    assert status == 413
    assert '"body_too_large"' in answer


def test_a_chunked_body_is_cut_off_at_the_limit(exporter: Running) -> None:
    def chunks() -> Any:
        for _ in range(80):
            yield b" " * 65536

    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    response = requests.post(exporter.url + "/v1/push", data=chunks(), headers=headers, timeout=10)
    refused(exporter, response, 413, "body_too_large")


def test_a_body_that_does_not_come_is_given_up(start: Any) -> None:
    exporter = start(body_timeout_seconds=0.05)
    with connect(exporter) as connection:
        connection.sendall(f"{HEAD}Content-Length: 10\r\n\r\n{{".encode())
        answer = until_closed(connection)
    assert answer.startswith("HTTP/1.1 408")
    assert '"body_incomplete"' in answer


def test_a_connection_that_ends_in_the_body_is_no_internal_error(exporter: Running) -> None:
    with connect(exporter) as connection:
        connection.sendall(f"{HEAD}Content-Length: 10\r\n\r\n{{".encode())
    exporter.push(series(messages=1))
    assert exporter.value("exporter_rejected_total", reason="body_incomplete") == 1


@pytest.mark.parametrize(
    "headers",
    ["Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"],
    ids=["two lengths", "a length and chunks"],
)
def test_a_body_of_ambiguous_length_is_refused(exporter: Running, headers: str) -> None:
    status, _ = raw(exporter, f"{HEAD}{headers}\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
    assert status == 400
    assert exporter.value("conversation_messages_total") is None


PUSH_BODY = b'{"client": "c", "epoch": 1, "seq": 1, "series": []}'


@pytest.mark.parametrize("hosts", ["", "Host: x\r\nHost: x\r\n"], ids=["no host", "two hosts"])
def test_a_request_names_one_host(exporter: Running, hosts: str) -> None:
    head = HEAD.replace("Host: x\r\n", hosts) + f"Content-Length: {len(PUSH_BODY)}\r\n\r\n"
    status, _ = raw(exporter, head.encode() + PUSH_BODY)
    assert status == 400
    assert exporter.value("exporter_pushes_total") == 0


@pytest.mark.parametrize("junk", [b"X: " + b"x" * 70_000, b"X: x\r\n" * 12_000], ids=["a line", "lines"])
def test_a_head_without_end_is_refused(exporter: Running, junk: bytes) -> None:
    with connect(exporter) as connection:
        connection.sendall(HEAD.encode() + junk)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_head_that_does_not_come_is_given_up(exporter: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.05)
    for begun in (b"", b"POST /v1/push HTTP/1.1\r\n"):
        with connect(exporter) as connection:
            connection.sendall(begun)
            assert connection.recv(65536) == b""


def test_trailers_are_no_headers(exporter: Running) -> None:
    head = HEAD.replace(f"Authorization: Bearer {TOKEN}\r\n", "") + "Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(PUSH_BODY), PUSH_BODY)
    status, _ = raw(exporter, head.encode() + chunk + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert status == 401


def test_pipelined_requests_are_answered_in_order(exporter: Running) -> None:
    pushes = [
        f"{HEAD}X-Request-ID: r{seq}\r\nContent-Length: {len(PUSH_BODY)}\r\n\r\n".encode()
        + PUSH_BODY.replace(b'"seq": 1', b'"seq": %d' % seq)
        for seq in range(1, 6)
    ]
    healthy = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nX-Request-ID: h\r\n\r\n"
    with connect(exporter) as connection:
        connection.sendall(healthy.join(pushes))
        answer = b""
        while answer.count(b'"request_id"') < 9 and (received := connection.recv(65536)):
            answer += received
    assert re.findall(rb'"request_id":"(\w+)"', answer) == [
        b"r1",
        b"h",
        b"r2",
        b"h",
        b"r3",
        b"h",
        b"r4",
        b"h",
        b"r5",
    ]
    assert answer.count(b"HTTP/1.1 200") == 9


REFUSED_AT_ONCE = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def test_refusals_pipelined_behind_a_push_are_all_answered(exporter: Running) -> None:
    push = f"{HEAD}Content-Length: {len(PUSH_BODY)}\r\n\r\n".encode() + PUSH_BODY
    with connect(exporter) as connection:
        connection.sendall(push + REFUSED_AT_ONCE * MAX_PIPELINED)
        answer = ""
        while answer.count('"request_id"') <= MAX_PIPELINED and (received := connection.recv(65536)):
            answer += received.decode()
    assert answer.count("HTTP/1.1 200") == 1
    assert answer.count("HTTP/1.1 401") == answer.count('"unauthenticated"') == MAX_PIPELINED


def test_a_connection_is_kept_while_it_is_used_and_closed_when_idle(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_SECONDS", 2.0)
    push = f"{HEAD}Content-Length: {len(PUSH_BODY)}\r\n\r\n".encode() + PUSH_BODY
    with connect(exporter) as connection:
        for _ in range(6):  # longer than the time-out, with pauses that are much shorter
            connection.sendall(push)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)
        assert connection.recv(65536) == b""


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/push", 405, "method_not_allowed"),
        ("DELETE", "/metrics", 405, "method_not_allowed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/nowhere", 404, "not_found"),
        ("POST", "/v1/observations/", 404, "not_found"),
        ("POST", "/v1/push/", 404, "not_found"),
        ("GET", "/metrics/", 404, "not_found"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("PUT", "/v1/observations", 405, "method_not_allowed"),
    ],
)
def test_routes(exporter: Running, method: str, path: str, status: int, code: str) -> None:
    response = requests.request(method, exporter.url + path, timeout=10, allow_redirects=False)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert exporter.value("exporter_rejected_total", reason=code) == (method != "GET")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/push?x=1", 200),
        ("/v1/%70ush", 200),
        ("/%761%2Fpush?x=%", 200),
        ("http://x/v1/%70ush", 200),
        ("/v1/%2570ush", 404),
        ("/v1/push%00", 404),
        ("/v1/%zzush", 404),
        ("/v1/%ff", 404),
        ("http://x", 404),
    ],
)
def test_a_path_means_the_same_however_it_is_encoded(exporter: Running, path: str, status: int) -> None:
    """As bytes: HTTP libraries decode what need not be encoded before they send it."""
    head = HEAD.replace("/v1/push", path) + f"Connection: close\r\nContent-Length: {len(PUSH_BODY)}\r\n\r\n"
    assert exchange(exporter, head.encode() + PUSH_BODY).startswith(f"HTTP/1.1 {status}")
    assert exporter.value("exporter_pushes_total", result="accepted") == (status == 200)
    answer = exchange(exporter, head.replace(TOKEN, "").encode() + PUSH_BODY)
    assert answer.startswith(f"HTTP/1.1 {401 if status == 200 else status}")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ('"', False)],
    ids=["harmless", "with a space", "too long", "with a quote"],
)
def test_a_request_id_is_taken_over_only_if_harmless(exporter: Running, given: str, kept: bool) -> None:
    response = requests.get(exporter.url + "/-/healthy", headers={"X-Request-ID": given}, timeout=10)
    assert (response.headers["X-Request-ID"] == given) == kept
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


def test_each_of_several_tokens_is_valid(start: Any) -> None:
    exporter = start(ingest_tokens="new-token-0123456789, old-token-0123456789")
    for seq, token in enumerate(["new-token-0123456789", "old-token-0123456789"], start=1):
        response = exporter.post(
            "/v1/push", {**PUSH, "seq": seq, "series": [series(messages=1)]}, token=token
        )
        assert response.status_code == 200
    assert exporter.value("conversation_messages_total") == 2


def test_health_needs_no_token(exporter: Running) -> None:
    for path in ("/-/healthy", "/-/ready"):
        assert requests.get(exporter.url + path, timeout=10).status_code == 200


def test_an_answer_without_a_body_is_sent(exporter: Running) -> None:
    response = requests.head(exporter.url + "/-/healthy", timeout=10)
    assert (response.status_code, response.content) == (200, b"")


def test_http_1_0_knows_no_answer_before_the_answer(exporter: Running) -> None:
    head = f"{HEAD}Expect: 100-continue\r\nContent-Length: {len(PUSH_BODY)}\r\n\r\n".replace("1.1", "1.0")
    with connect(exporter) as connection:
        connection.sendall(head.encode())
        assert not select.select([connection], [], [], 0.2)[0]
        connection.sendall(PUSH_BODY)
        assert until_closed(connection).startswith("HTTP/1.1 200")


def test_who_asks_whether_to_send_the_body_is_answered_at_once(exporter: Running) -> None:
    with connect(exporter) as connection:
        head = f"{HEAD}Expect: 100-continue\r\nContent-Length: {len(PUSH_BODY)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PUSH_BODY)
        assert until_closed(connection).startswith("HTTP/1.1 200")
