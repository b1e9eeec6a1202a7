"""Requests are the same however their bytes are cut into pieces."""

import pytest

from exporter.errors import ExporterError
from exporter.http.exchange import Exchange
from exporter.http.reader import RequestReader

POST = b"POST /v1/push?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /v1/push HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nHost: y\r\n\r\n"
)
UPGRADE = (
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
)
GET = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Nobody:
    """A line on which nothing is answered."""

    waiting_since = 0.0
    date = b""

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def read_on(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def finished(self, exchange: Exchange) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


def read(*pieces: bytes) -> list[object]:
    """What the reader makes of them: the requests, and the error that ended it."""
    reader = RequestReader(Nobody(), max_body_bytes=1000)
    error = None
    try:
        for piece in pieces:
            reader.feed(memoryview(piece))
    except ExporterError as raised:
        error = type(raised).__name__, raised.message
    requests = [
        (e.method, e.target, e.headers, bytes(e.body), e.complete, e.keep_alive) for e in reader.waiting
    ]
    return [*requests, error]


@pytest.mark.parametrize(
    "sent",
    [
        POST + GET,
        CHUNKED + POST,
        UPGRADE + CHUNKED + LAST,
        GET + LAST + GET,
        GET + b"garbage\r\n\r\n",
        GET + b"GET / HTTP/1.1\r\n\r\n",
        GET + POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
        CHUNKED.replace(b"2;a=b", b"zz"),
        GET.replace(b"GET", b"CONNECT") + GET,
    ],
    ids=[
        "a length",
        "chunks",
        "another protocol",
        "behind the last",
        "garbage",
        "no host",
        "two lengths",
        "a bad chunk",
        "a tunnel",
    ],
)
def test_pieces_make_no_difference(sent: bytes) -> None:
    whole = read(sent)
    assert read(*(sent[n : n + 1] for n in range(len(sent)))) == whole
    for cut in range(1, len(sent)):
        assert read(sent[:cut], sent[cut:]) == whole


def test_a_trailer_is_no_header_and_an_upgrade_is_gone() -> None:
    chunked, upgrade, error = read(CHUNKED + UPGRADE)
    assert chunked == (
        b"POST",
        b"/v1/push",
        [(b"host", b"x"), (b"transfer-encoding", b"chunked")],
        b"hello",
        True,
        True,
    )
    assert isinstance(upgrade, tuple)
    assert upgrade[2:4] == (
        [(b"host", b"x"), (b"connection", b"Upgrade"), (b"content-length", b"5")],
        b"hello",
    )
    assert error is None


def test_heads_that_wait_are_bounded_together_and_each_may_be_large() -> None:
    """A header needs several times the memory of its bytes."""
    many = GET.replace(b"Host: x\r\n", b"Host: x\r\n" + b"a:b\r\n" * 49)
    *waiting, error = read(many * 10)
    assert len(waiting) == 4
    assert error is not None
    large = GET.replace(b"Host: x\r\n", b"Host: x\r\n" + b"a: " + b"b" * 32_000 + b"\r\n")
    assert len(read(large, GET)) == 2 + (read(large, GET)[-1] is None)


def test_what_is_too_much_of_a_body_is_not_kept() -> None:
    reader = RequestReader(Nobody(), max_body_bytes=100)
    reader.feed(memoryview(POST.replace(b"Content-Length: 5", b"Content-Length: 1000000")))
    for _ in range(1000):
        reader.feed(memoryview(b"x" * 50))
    assert len(reader.waiting[0].body) <= 100 < reader.waiting[0].body_cost
