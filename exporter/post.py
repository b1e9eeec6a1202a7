"""A POST whose body is counted, from its head to its answer.

It stands where uvicorn has a cycle of ASGI messages: a task, events and dictionaries for each request cost
several times as much as counting what it brings.
"""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Protocol

import msgspec
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from exporter.errors import BodyIncompleteError, BodyTooLargeError, ExporterError
from exporter.http import Head, request_id_of
from exporter.ingest import Outcome

Count = Callable[[bytes], "asyncio.Future[Outcome]"]
"""Counts a body. Raises ExporterError, at once or in the future."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class Calls(Protocol):
    """What the application makes of the POSTs."""

    max_connections: int
    max_body_bytes: int
    body_timeout_seconds: float

    def takes(self, path: bytes) -> bool:
        """Whether a POST to this path is counted."""

    def admit(self, path: bytes, head: Head) -> Count:
        """Judge a request before its body is read. Raises ExporterError."""

    def counted(self, outcome: Outcome) -> dict[str, object]:
        """The `data` of the answer."""

    def refuse(self, request_id: str, error: Exception) -> Response:
        """The answer to a request that `admit` or its `Count` raised on, or that broke off."""

    def refuse_connection(self, error: ExporterError) -> Response:
        """The answer to what is not HTTP, or to one connection or request too many."""

    def evicted(self) -> None:
        """A connection was closed to make room for another."""


class Post(RequestResponseCycle):
    """One such request. The connection tells it what arrives, and whose turn it is to be answered."""

    response_started = False  # an answer is sent in one piece
    message_event = asyncio.Event()  # set by uvicorn when the connection ends; nobody waits for it

    def __init__(
        self,
        connection: HttpToolsProtocol,
        socket: asyncio.Transport,
        calls: Calls,
        path: bytes,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self._socket = socket
        self._calls = calls
        self._path = path
        self._head = dict(reversed(connection.headers))  # of a repeated one the first
        self._request_id = request_id_of(self._head)
        self._expected = connection.expect_100_continue
        self._count: Count | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.keep_alive = keep_alive
        self.disconnected = False
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False

    def start(self) -> None:
        """Begin: all requests before this one on the connection are answered."""
        try:
            count = self._calls.admit(self._path, self._head)
            if int(self._head.get(b"content-length", b"0")) > self._calls.max_body_bytes:
                raise self._too_large()
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            self._refuse(error)
            return
        self._count = count
        if self._expected and self.more_body:
            self._socket.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._go_on()

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if not self.response_complete and len(self.body) <= self._calls.max_body_bytes:
            self.body += chunk
            if len(self.body) > self._calls.max_body_bytes:
                self._go_on()

    def complete(self) -> None:
        """The body is complete."""
        self.more_body = False
        if not self.response_complete:
            self._go_on()

    def wait(self) -> None:
        """What has arrived so far has been read: from now on the rest of the body is waited for."""
        waits = self._count is not None and self.more_body and not self.response_complete
        if waits and self._deadline is None:
            seconds = self._calls.body_timeout_seconds
            self._deadline = self._connection.loop.call_later(seconds, self._give_up, seconds)

    def lose(self) -> None:
        """The connection is gone. What is on its way to the disk is counted; nobody hears of it."""
        self.disconnected = True
        if self._count is not None and self.more_body and not self.response_complete:
            self._refuse(BodyIncompleteError("The connection ended before the body"))

    def supersede(self) -> None:
        """What was to be its body is malformed: the connection answers in its place."""
        self.response_complete = True
        if self._deadline is not None:
            self._deadline.cancel()

    def _go_on(self) -> None:
        if self._count is None:
            return
        if len(self.body) > self._calls.max_body_bytes:
            self._refuse(self._too_large())
        elif not self.more_body:
            try:
                self._count(bytes(self.body)).add_done_callback(self._settled)
            except Exception as error:  # noqa: BLE001 (every request gets an answer)
                self._refuse(error)

    def _settled(self, outcome: "asyncio.Future[Outcome]") -> None:
        try:
            data = self._calls.counted(outcome.result())
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            self._refuse(error)
        else:
            body = msgspec.json.encode({"data": data, "request_id": self._request_id})
            self._answer(
                200,
                [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")],
                body,
            )

    def _give_up(self, seconds: float) -> None:
        self.keep_alive = False
        self._refuse(BodyIncompleteError(f"The body did not arrive within {seconds} seconds"))

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The body is longer than {self._calls.max_body_bytes} bytes")

    def _refuse(self, error: Exception) -> None:
        response = self._calls.refuse(self._request_id, error)
        self._answer(response.status_code, response.raw_headers, bytes(response.body))

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.response_complete = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self.disconnected:
            return
        headers = [*self._connection.server_state.default_headers, *headers]
        headers.append((b"x-request-id", self._request_id.encode()))
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        self._socket.write(answer(status, headers, body))
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


def answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A whole answer as bytes."""
    return b"\r\n".join([_STATUS_LINES[status], *(b"%s: %s" % header for header in headers), b"", body])
