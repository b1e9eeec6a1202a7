"""One connection: where a request ends, what is answered in which order, and when it is over."""

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from driftback import Recorder
from exporter.http import connection as http_connection
from exporter.http.reader import MAX_PIPELINED
from exporter.metrics import scrapes
from exporter.storage.clock import Moment
from exporter.storage.journal import Journal, Record
from tests.exporter.running import TOKEN, Running, series, wait_for

HEAD = (
    f"POST /v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Content-Type: application/json\r\n"
)
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
GARBAGE = b"garbage\r\n\r\n"


def push(seq: int, *headers: str, token: str = TOKEN, version: str = "1.1") -> bytes:
    """A push of one message."""
    body = (
        b'{"client":"c","epoch":1,"seq":%d,"series":[{"journey":"chat","persona":"p","config_version":"1",'
        % seq
    )
    body += b'"messages":1,"latency":{"sum":0.1,"buckets":{"1":1}}}]}'
    lines = [*headers, f"Content-Length: {len(body)}"]
    head = HEAD.replace(TOKEN, token).replace("1.1", version)
    return "".join([head, *(f"{line}\r\n" for line in lines), "\r\n"]).encode() + body


def hold_writes(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the journal write nothing until the event is set."""
    write, released = Journal.append, threading.Event()

    def slow(journal: Journal, records: Sequence[Record], now: Moment) -> None:
        assert released.wait(20)
        write(journal, records, now)

    monkeypatch.setattr(Journal, "append", slow)
    return released


def connect(exporter: Running) -> socket.socket:
    host, port = exporter.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    """All that the server sends. It may reset the connection when it closes it on unread bytes."""
    answer = b""
    try:
        while received := connection.recv(65536):
            answer += received
    except ConnectionResetError:
        pass
    return answer


def exchange(exporter: Running, *packets: bytes) -> list[int]:
    """Send packets one after the other; the status codes of the answers until the server closes."""
    with connect(exporter) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
            time.sleep(0.05)
        answer = until_closed(connection)
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def split(request: bytes) -> tuple[bytes, bytes]:
    """Head and body as two packets."""
    head, _, body = request.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
"""As curl --http2 and Java's HttpClient send it. RFC 9110, section 7.8: a server may ignore it."""
LAST = push(9, "Connection: close")
UPGRADING = HEALTHY.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket")


@pytest.mark.parametrize(
    "packets",
    [
        (push(1, *UPGRADE) + LAST,),
        (*split(push(1, *UPGRADE)), LAST),
        (push(1, *UPGRADE) + HEALTHY + push(2, *UPGRADE) + LAST,),
        (UPGRADING + push(1) + LAST,),
        (*split(push(1, "connection: upgrade", "upgrade: a", "Upgrade: b")), LAST),
    ],
    ids=["in one packet", "body behind its head", "several", "of a GET", "twice"],
)
def test_the_wish_for_another_protocol_is_ignored(exporter: Running, packets: tuple[bytes, ...]) -> None:
    sent = b"".join(packets)
    assert exchange(exporter, *packets) == [200] * sent.count(b" HTTP/1.1\r\n")
    assert exporter.value("conversation_messages_total") == sent.count(b"POST ")


def test_the_body_behind_the_wish_for_another_protocol_is_no_request(exporter: Running) -> None:
    inner = push(1)
    headers = f"{UPGRADE[0]}\r\n{UPGRADE[1]}\r\nContent-Length: {len(inner)}\r\n\r\n"
    outer = HEALTHY.removesuffix(b"\r\n") + headers.encode()
    assert exchange(exporter, outer, inner, LAST) == [200, 200]
    assert exporter.value("conversation_messages_total") == 1


def test_a_tunnel_is_refused(exporter: Running) -> None:
    assert exchange(exporter, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + push(1)) == [400]
    assert exporter.value("conversation_messages_total") is None


BROKEN = f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode()


@pytest.mark.parametrize(
    ("sent", "answers", "counted"),
    [
        (GARBAGE, [400], None),
        (push(1) + GARBAGE, [200, 400], 1),
        (push(1) + HEALTHY + push(2) + GARBAGE + push(3), [200, 200, 200, 400], 2),
        (HEALTHY + GARBAGE, [200, 400], None),
        (BROKEN, [400], None),
        (push(1) + BROKEN, [200, 400], 1),
        (push(1) + HEALTHY + BROKEN + push(2), [200, 200, 400], 1),
        (BROKEN.replace(TOKEN.encode(), b"wrong"), [401], None),
        (push(1) + b"GET / HTTP/1.1\r\n\r\n", [200, 400], 1),
        (push(1) + b"GET / HTTP/1.1\r\nX: " + b"x" * 400_000, [200, 400], 1),
        (push(1) + HEALTHY.replace(b"\r\n\r\n", b"\r\nX:" * 100 + b"\r\n\r\n"), [200, 400], 1),
    ],
    ids=[
        "garbage",
        "behind a push",
        "behind several",
        "behind a GET",
        "a broken body",
        "a broken body behind a push",
        "a broken body behind several",
        "a broken body that was refused before",
        "no host behind a push",
        "a long head behind a push",
        "more headers than may be",
    ],
)
def test_what_is_malformed_is_refused_behind_the_answers_that_are_due(
    exporter: Running, sent: bytes, answers: list[int], counted: int | None
) -> None:
    assert exchange(exporter, sent) == answers
    assert exporter.value("conversation_messages_total") == counted
    assert exporter.value("exporter_rejected_total", reason="invalid_http") == answers.count(400)
    assert exporter.value("exporter_rejected_total") == answers.count(400) + answers.count(401)


def test_what_is_malformed_is_refused_in_the_shape_of_every_refusal(exporter: Running) -> None:
    with connect(exporter) as connection:
        connection.sendall(GARBAGE)
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    content = json.loads(body)
    assert (content["error"]["code"], content["error"]["details"]) == ("invalid_http", {})
    assert f"x-request-id: {content['request_id']}" in head.decode().split("\r\n")


def test_a_body_that_breaks_off_malformed_is_counted_once(start: Callable[..., Running]) -> None:
    exporter = start(body_timeout_seconds=2.0)
    head, broken = split(BROKEN)
    assert exchange(exporter, head + b"1\r\n{\r\n", broken) == [400]
    time.sleep(2.5)  # longer than a body is waited for
    assert exporter.value("exporter_rejected_total") == 1


@pytest.mark.parametrize(
    ("last", "answer", "counted"),
    [
        (push(1, "Connection: close"), 200, 1),
        (push(1, "Connection: close", token="wrong"), 401, None),
        (push(1, version="1.0"), 200, 1),
        (HEALTHY.replace(b"Host: x", b"Host: x\r\nConnection: close"), 200, None),
        (HEALTHY.replace(b"1.1", b"1.0"), 200, None),
        (push(1, "Connection: keep-alive", version="1.0"), 200, 1),
        (push(1, "Connection: keep-alive", version="1.0", token="wrong"), 401, None),
        (HEALTHY.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"), 200, None),
    ],
    ids=[
        "counted",
        "refused",
        "HTTP/1.0",
        "a GET",
        "a GET of HTTP/1.0",
        "HTTP/1.0 that would go on",
        "a refused one of HTTP/1.0 that would go on",
        "a GET of HTTP/1.0 that would go on",
    ],
)
@pytest.mark.parametrize("behind", [push(2), GARBAGE, HEALTHY], ids=["a push", "garbage", "a GET"])
def test_nothing_is_taken_behind_a_request_that_ends_the_connection(
    exporter: Running, last: bytes, answer: int, counted: int | None, behind: bytes
) -> None:
    """RFC 9112, section 9.6."""
    assert exchange(exporter, last + behind) == [answer]
    exporter.push(client="another")  # what came before it is on disk by then
    assert exporter.value("conversation_messages_total") == counted


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (push(1), [200]),
        (push(1) + HEALTHY + push(2) + split(push(3))[0], [200, 200, 200]),
        (push(1) + GARBAGE, [200, 400]),
    ],
    ids=["one", "several, and half of one", "one, and garbage"],
)
def test_a_request_whose_sender_ends_its_side_is_answered(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes, answers: list[int]
) -> None:
    released = hold_writes(monkeypatch)
    monkeypatch.setattr(http_connection, "HALF_CLOSED_SECONDS", 60.0)
    with connect(exporter) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        released.set()
        found = until_closed(connection).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in found] == answers


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
LONG = "Content-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (HEALTHY.removesuffix(b"\r\n") + LONG.encode(), b"x"),
        (HEALTHY.removesuffix(b"\r\n") + CHUNKED.encode(), b"1\r\nx\r\n"),
        (HEALTHY, b"\r\n"),
        ((HEAD.replace(TOKEN, "wrong") + LONG).encode(), b"x"),
        (push(1), b"\r\n"),
    ],
    ids=["a body", "chunks", "empty lines", "a refused body", "empty lines behind a push"],
)
def test_57_what_comes_behind_an_answer_keeps_no_connection(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, begun: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_SECONDS", 0.3)
    with connect(exporter) as connection:
        connection.sendall(begun)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")

        def closed() -> bool:
            try:
                connection.sendall(piece)
                readable, _, _ = select.select([connection], [], [], 0.05)
                return bool(readable) and not connection.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                return True

        wait_for(closed)


TOO_LONG = f"{HEAD}Content-Length: 6000000\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("begun", "status"),
    [(TOO_LONG, b"413"), (TOO_LONG.replace(TOKEN.encode(), b"wrong"), b"401"), (GARBAGE, b"400")],
    ids=["a body too long", "a body of a refused request", "garbage"],
)
def test_57_who_still_sends_can_read_the_refusal(exporter: Running, begun: bytes, status: bytes) -> None:
    with connect(exporter) as connection:
        connection.sendall(begun + b"x" * 6_000_000)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_57_who_goes_on_sending_behind_a_refusal_is_let_go(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_SECONDS", 0.3)
    with connect(exporter) as connection:
        connection.sendall(TOO_LONG)
        assert until_closed(connection).startswith(b"HTTP/1.1 413")

        def reset() -> bool:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                return True
            return False

        wait_for(reset)


@pytest.mark.parametrize(("pieces", "status"), [(2, 200), (150, 413)], ids=["large chunks", "tiny chunks"])
def test_57_chunks_count_for_more_than_their_bytes(
    start: Callable[..., Running], pieces: int, status: int
) -> None:
    exporter = start(max_body_bytes=4096)
    _, body = split(push(1))
    size = len(body) // pieces + 1
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert exchange(exporter, (HEAD + "Connection: close\r\n" + CHUNKED).encode() + sent) == [status]


@pytest.mark.parametrize("trailer", [b"x" * 65536, b"X: x\r\n" * 10_000], ids=["a line", "lines"])
@pytest.mark.parametrize(
    "head",
    [HEAD + CHUNKED, HEAD.replace(TOKEN, "wrong") + CHUNKED, HEALTHY.decode()[:-2] + CHUNKED],
    ids=["a push", "a refused push", "a GET"],
)
def test_57_trailers_without_end_are_not_kept(exporter: Running, head: str, trailer: bytes) -> None:
    sent = 0
    with connect(exporter) as connection:
        connection.sendall(head.encode() + b"2\r\n{}\r\n0\r\nX: ")
        while sent < 64 * 1024**2:
            try:
                sent += connection.send(trailer)
            except (BrokenPipeError, ConnectionResetError):
                break
    assert sent < 32 * 1024**2  # most of it in the buffers of both kernels
    exporter.push(series(messages=1))


@pytest.mark.parametrize("last", [False, True], ids=["while it is sent", "at the end of the connection"])
def test_57_who_does_not_read_an_answer_is_let_go(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    monkeypatch.setattr(http_connection, "DRAIN_SECONDS", 0.3)
    if last:  # as if all that the kernels do not take were less than what makes writing pause
        monkeypatch.setattr(http_connection.Connection, "pause_writing", lambda _: None)
    exporter = start()
    exporter.push(*(series(config_version=f"{n % 50}", persona=f"p{n // 50}") for n in range(600)))
    host, port = exporter.url.removeprefix("http://").split(":")
    connections = []
    try:
        for _ in range(3):
            connections.append(socket.socket())
            connections[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connections[-1].connect((host, int(port)))
        wait_for(lambda: exporter.connections() >= 3)
        for connection in connections:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: exporter.connections() == 0)
    finally:
        for connection in connections:
            connection.close()


def test_57_no_more_is_read_from_who_reads_no_answer(exporter: Running) -> None:
    exporter.push(*(series(config_version=f"{n % 50}", persona=f"p{n // 50}") for n in range(600)))
    waiting = HEALTHY * 500_000  # more than the buffers of both kernels hold
    with unread_scrape(exporter) as connection:
        wait_for(lambda: exporter.unread() == 1)
        connection.setblocking(False)
        while waiting and select.select([], [connection], [], 1)[1]:
            waiting = waiting[connection.send(waiting[:65536]) :]
        assert exporter.unread() == 1
    assert waiting


@pytest.mark.parametrize("waiting", [HEALTHY, push(1), UPGRADING], ids=["GET", "push", "upgrade"])
def test_61_a_connection_with_too_many_pipelined_requests_ends(exporter: Running, waiting: bytes) -> None:
    sent = waiting * (MAX_PIPELINED + 2) + HEALTHY * 100  # few enough for one read of the server
    with connect(exporter) as connection:
        connection.sendall(sent)
        answers = until_closed(connection).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == MAX_PIPELINED + 2
    assert answers[-1].startswith(b"429 ")
    assert json.loads(answers[-1].partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_pipelined"
    assert exporter.value("exporter_rejected_total", reason="too_many_pipelined") == 1


def ends(connection: socket.socket, piece: bytes) -> bool:
    """Whether the server ends the connection on which a piece is sent 200 times, its answers being read."""
    try:
        for _ in range(200):
            connection.sendall(piece)
            while select.select([connection], [], [], 0)[0]:
                if not connection.recv(65536):
                    return True
    except ConnectionError:
        return True
    return False


def test_61_requests_without_end_end_the_connection(exporter: Running) -> None:
    with connect(exporter) as connection:
        assert ends(connection, HEALTHY * 1000)
    assert exporter.value("exporter_rejected_total", reason="too_many_pipelined") == 1


def test_61_a_connection_too_many_takes_the_place_of_the_one_that_is_idle_longest(
    start: Callable[..., Running],
) -> None:
    exporter = start(max_connections=3)
    held = [connect(exporter) for _ in range(3)]
    try:
        for connection in (held[1], held[2], held[0]):  # so that the second is idle longest
            connection.sendall(HEALTHY)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert "exporter_evicted_total" in exporter.scrape()
        assert until_closed(held[1]) == b""
        for connection in (held[0], held[2]):
            connection.sendall(HEALTHY)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        for connection in held:
            connection.close()
    assert exporter.value("exporter_evicted_total", kind="connection") == 1
    assert exporter.value("exporter_rejected_total") == 0


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nHost:", (HEAD + LONG).encode()], ids=["silent", "a head", "a body"]
)
def test_61_connections_that_do_not_finish_a_request_keep_nobody_out(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(http_connection, "FRESH_SECONDS", 0.0)
    exporter = start(max_connections=3, body_timeout_seconds=60.0)
    held = [connect(exporter) for _ in range(3)]
    try:
        for connection in held:
            connection.sendall(begun)
        for _ in range(3):
            assert exporter.push(series(messages=1))
    finally:
        for connection in held:
            connection.close()


def test_61_an_upload_that_pauses_makes_room_only_where_nobody_is_idle(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "FRESH_SECONDS", 0.0)
    exporter = start(max_connections=3, body_timeout_seconds=60.0)
    head, body = split(push(1))
    with connect(exporter) as upload, connect(exporter) as idle, connect(exporter) as silent:
        upload.sendall(head + body[:9])
        idle.sendall(HEALTHY)
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        for _ in range(5):  # each closes its connection
            assert exporter.scrape()
        upload.sendall(body[9:])
        assert upload.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert until_closed(silent) == b""


def test_61_a_connection_too_many_is_refused_where_all_are_being_answered(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = hold_writes(monkeypatch)
    exporter = start(max_connections=3)
    held = [connect(exporter) for _ in range(3)]
    try:
        for seq, connection in enumerate(held):
            connection.sendall(push(seq + 1))
        wait_for(lambda: exporter.being_answered() == 3)
        with connect(exporter) as connection:
            connection.sendall(HEALTHY)
            assert select.select([connection], [], [], 20)[0]
            connection.sendall(HEALTHY)  # what is unread at the end would reset the connection
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        released.set()
        for connection in held:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        released.set()
        for connection in held:
            connection.close()
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 1" in head
    assert json.loads(body)["error"]["code"] == "too_many_connections"
    assert exporter.value("exporter_rejected_total", reason="too_many_connections") == 1


def test_61_more_recorders_than_connections_lose_nothing_and_blind_nobody(
    start: Callable[..., Running],
) -> None:
    exporter = start(max_connections=4)
    recorders = [Recorder(exporter.url, token=TOKEN, flush_interval=600.0) for _ in range(12)]
    try:
        for n in range(60):
            recorder = recorders[n % 12]
            recorder.record(journey="chat", persona="p", config_version="1", latency_ms=1, outcome="ok")
            assert recorder.flush(timeout=20)
            assert exporter.scrape()
    finally:
        for recorder in recorders:
            recorder.close()
    assert exporter.value("conversation_messages_total") == 60
    assert (exporter.value("exporter_evicted_total", kind="connection") or 0) > 0
    assert exporter.value("exporter_rejected_total") == 0


def unread_scrape(exporter: Running, receive_buffer: int = 4096) -> socket.socket:
    """A connection on which a scrape was asked for that nobody has read yet."""
    host, port = exporter.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def test_61_readers_that_do_not_read_keep_no_scrape_out(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "PLACE_SECONDS", 60.0)
    exporter.push(*(series(config_version=f"{n % 50}", persona=f"p{n // 50}") for n in range(600)))
    unread = [unread_scrape(exporter) for _ in range(3 * scrapes.MAX_SCRAPES)]
    try:
        for _ in range(3):
            assert exporter.value("conversation_messages_total") == 0
        wait_for(
            lambda: (exporter.value("exporter_evicted_total", kind="scrape") or 0) >= 2 * scrapes.MAX_SCRAPES
        )
    finally:
        for connection in unread:
            connection.close()
    assert exporter.value("exporter_rejected_total") == 0


def test_57_a_reader_that_reads_a_little_now_and_then_is_let_go(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "DRAIN_SECONDS", 0.5)
    exporter = start()
    exporter.push(*(series(config_version=f"{n % 50}", persona=f"p{n // 50}") for n in range(1500)))
    answer = b""
    with unread_scrape(exporter, receive_buffer=131072) as connection:
        connection.settimeout(20)
        try:
            while received := connection.recv(65536):
                answer += received
                time.sleep(0.02)  # in all several times as long as an answer may take
        except ConnectionResetError:
            pass
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"\r\n0\r\n\r\n")
