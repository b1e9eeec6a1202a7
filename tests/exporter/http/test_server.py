"""Connections of a server: no more than it may have, and none that outlives it."""

import asyncio
import contextlib
import gc
import select
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from exporter.errors import ExporterError
from exporter.http import connection as http_connection
from exporter.http import server as http_server
from exporter.http.exchange import Exchange, Reply
from exporter.http.listener import listen
from exporter.http.server import Server

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


OK = Reply(200, [], b"{}")


class Silent:
    """An application that answers nothing, unless a test does."""

    max_body_bytes = 100
    body_seconds = 100.0

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.ended = self.evictions = 0

    @property
    def begun(self) -> int:
        """How many requests have begun."""
        return len(self.exchanges)

    def begin(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.on_end = self._end

    def _end(self) -> None:
        self.ended += 1

    def refuse(self, exchange: Exchange | None, error: ExporterError) -> Reply:
        return Reply(429, [], b"")

    def evicted(self) -> None:
        self.evictions += 1


def _connected(listener: socket.socket) -> socket.socket:
    client = socket.create_connection(listener.getsockname()[:2])
    client.settimeout(60)
    return client


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _serving(
    application: Silent, max_connections: int, grace_seconds: float = 0
) -> AsyncIterator[tuple[Server, socket.socket]]:
    """A server and its listener; it has stopped at the end."""
    server = Server(application, max_connections)
    listener = listen("127.0.0.1", 0, max_connections, "TEST_")
    serving = asyncio.create_task(server.serve(listener, grace_seconds))
    try:
        yield server, listener
    finally:
        server.stop()
        await serving


def test_a_request_that_is_never_answered_ends_with_the_server() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 10) as (server, listener):
            client = _connected(listener)
            client.sendall(REQUEST)
            await _until(lambda: application.begun == 1)
        assert not server.connections
        assert application.ended == 1
        return client

    _assert_closed(serve)


def test_a_connection_that_is_accepted_while_the_server_stops_ends_with_it() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 10, grace_seconds=60) as (server, listener):
            first = _connected(listener)
            first.sendall(REQUEST)
            await _until(lambda: application.begun == 1)
            second = _connected(listener)
            await asyncio.sleep(0)  # the loop has accepted it, or will before it looks whether to stop
            server.stop()
            await _until(lambda: _readable(second))
            first.close()
        return second

    _assert_closed(serve)


def test_a_request_that_runs_when_the_server_stops_is_still_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_SECONDS", 600.0)
    monkeypatch.setattr(http_connection, "DRAIN_SECONDS", 600.0)

    async def serve() -> socket.socket:
        application = Silent()
        async with asyncio.timeout(60), _serving(application, 10, grace_seconds=600) as (server, listener):
            client = _connected(listener)
            client.sendall(REQUEST)
            await _until(lambda: application.begun == 1)
            server.stop()
            await asyncio.sleep(0.1)
            application.exchanges[0].answer(OK)
            answer = await asyncio.to_thread(client.recv, 65536)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer
        return client

    _assert_closed(serve)


@pytest.mark.parametrize(
    "second",
    [REQUEST, REQUEST[:20], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"],
    ids=["whole", "half a head", "half a body"],
)
def test_a_later_request_of_a_connection_makes_no_room_for_another(
    monkeypatch: pytest.MonkeyPatch, second: bytes
) -> None:
    monkeypatch.setattr(http_connection, "FRESH_SECONDS", 600.0)

    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 1) as (_, listener):
            client = _connected(listener)
            client.sendall(REQUEST)
            await _until(lambda: application.begun == 1)
            application.exchanges[0].answer(OK)
            assert (await asyncio.to_thread(client.recv, 65536)).startswith(b"HTTP/1.1 200")
            client.sendall(second)
            await asyncio.sleep(0.2)
            with _connected(listener) as refused:
                assert await asyncio.to_thread(refused.recv, 12) == b"HTTP/1.1 429"
        return client

    _assert_closed(serve)


def test_a_request_whose_sender_ends_its_side_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HALF_CLOSED_SECONDS", 0.2)

    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 10) as (server, listener):
            client = _connected(listener)
            client.sendall(REQUEST)
            client.shutdown(socket.SHUT_WR)
            await _until(lambda: application.ended == 1 and not server.connections)
        return client

    _assert_closed(serve)


def test_a_connection_that_is_refused_takes_nobodys_place() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 2) as (server, listener):
            busy = [_connected(listener) for _ in range(2)]
            for client in busy:
                client.sendall(REQUEST)
            await _until(lambda: application.begun == 2)
            refused = [_connected(listener) for _ in range(20)]
            await _until(lambda: all(_readable(client) for client in refused))
            assert [client.recv(12) for client in refused] == [b"HTTP/1.1 429"] * 20
            assert len(server.connections) == 2
            for client in refused:
                client.close()
        busy[0].close()
        return busy[1]

    _assert_closed(serve)


class Last(Silent):
    """An application that ends the connection with its answer."""

    def begin(self, exchange: Exchange) -> None:
        exchange.start(200, [(b"connection", b"close"), (b"content-length", b"0")])
        exchange.finish()


def test_an_application_that_says_close_is_the_last_to_answer() -> None:
    async def serve() -> socket.socket:
        async with _serving(Last(), 1) as (_, listener):
            client = _connected(listener)
            client.sendall(REQUEST * 2)
            answer = bytearray()
            while piece := await asyncio.to_thread(client.recv, 65536):
                answer += piece
            assert answer.count(b"HTTP/1.1") == answer.count(b"connection: close") == 1
        return client

    _assert_closed(serve)


def test_connections_that_wait_for_their_peers_to_close_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_LEAVING", 2)

    async def serve() -> socket.socket:
        async with _serving(Last(), 10) as (server, listener):
            clients = []
            for _ in range(4):
                clients.append(_connected(listener))
                clients[-1].sendall(REQUEST)
                assert (await asyncio.to_thread(clients[-1].recv, 65536)).startswith(b"HTTP/1.1 200")
            await _until(lambda: (len(server.connections), len(server.leaving)) == (0, 2))
        for client in clients[1:]:
            client.close()
        return clients[0]

    _assert_closed(serve)


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


def test_an_application_hears_that_the_connection_has_refused_its_request() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 10) as (_, listener):
            client = _connected(listener)
            client.sendall(CHUNKED + b"Expect: 100-continue\r\n\r\nzz\r\n")
            await _until(lambda: application.ended == 1)
            application.exchanges[0].read(lambda _: None)  # too late: there is nothing to be read or sent
            assert (await asyncio.to_thread(client.recv, 65536)).startswith(b"HTTP/1.1 429")
        return client

    _assert_closed(serve)


def test_a_peer_that_is_gone_before_its_last_answer_is_no_error() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 10) as (server, listener):
            client = _connected(listener)
            client.sendall(REQUEST.replace(b"1.1", b"1.0"))
            await _until(lambda: application.begun == 1)
            client.close()
            application.exchanges[0].answer(OK)
            await _until(lambda: not server.connections and not server.leaving)
            return _connected(listener)

    _assert_closed(serve)


def test_a_head_that_does_not_end_makes_room_before_who_was_answered_later() -> None:
    async def serve() -> socket.socket:
        application = Silent()
        async with _serving(application, 2) as (_, listener):
            slow = _connected(listener)
            slow.sendall(b"G")
            await asyncio.sleep(http_connection.FRESH_SECONDS * 2)
            answered = _connected(listener)
            answered.sendall(REQUEST)
            await _until(lambda: application.begun == 1)
            application.exchanges[0].answer(OK)
            assert (await asyncio.to_thread(answered.recv, 65536)).startswith(b"HTTP/1.1 200")
            with _connected(listener):
                await _until(lambda: application.evictions == 1)
                assert await asyncio.to_thread(slow.recv, 1) == b""
                assert not _readable(answered)
        answered.close()
        return slow

    _assert_closed(serve)


class Generous(Silent):
    """An application that answers each request at once with 5 MB, more than sockets hold."""

    def begin(self, exchange: Exchange) -> None:
        super().begin(exchange)
        exchange.answer(Reply(200, [], b"x" * 5_000_000))


def test_no_request_begins_while_the_answer_before_it_is_not_read() -> None:
    async def serve() -> socket.socket:
        application = Generous()
        async with _serving(application, 10) as (_, listener):
            client = _connected(listener)
            client.sendall(REQUEST * 3)
            await _until(lambda: application.begun > 0)
            await asyncio.sleep(0.2)
            assert application.begun == 1
            received = 0
            while received < 15_000_000:
                received += len(await asyncio.to_thread(client.recv, 1_000_000))
            assert application.begun == 3
        return client

    _assert_closed(serve)


def test_an_answer_that_is_not_sent_yet_is_not_cut_off_by_those_that_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_LEAVING", 1)
    last = REQUEST.replace(b"1.1", b"1.0")

    async def serve() -> socket.socket:
        application = Generous()
        async with _serving(application, 10) as (_, listener):
            client = _connected(listener)
            client.sendall(last)
            await _until(lambda: application.begun == 1)
            for _ in range(2):
                with _connected(listener) as other:
                    other.sendall(last)
                    while await asyncio.to_thread(other.recv, 1_000_000):
                        pass
            received = 0
            while piece := await asyncio.to_thread(client.recv, 1_000_000):
                received += len(piece)
            assert received > 5_000_000
        return client

    _assert_closed(serve)


def _readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def _assert_closed(serve: Callable[[], Coroutine[None, None, socket.socket]]) -> None:
    """That the server has closed the connection whose client `serve` returns, and left none open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.run(serve()) as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
