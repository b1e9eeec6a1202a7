"""One request and its answer: what is kept, and what its target means."""

from collections.abc import Callable

import pytest

from exporter.errors import InvalidHttpError
from exporter.http.exchange import Exchange, Reply
from tests.exporter.http.test_reader import Nobody


class Deaf(Nobody):
    """A line that takes an answer."""

    def write(self, data: bytes) -> None:
        pass

    def finished(self, exchange: Exchange) -> None:
        pass


@pytest.mark.parametrize("end", [Exchange.end, lambda exchange: exchange.answer(Reply(200, [], b""))])
def test_a_body_is_let_go_with_the_answer_or_the_end(end: Callable[[Exchange], None]) -> None:
    """Not only when the garbage collector finds the circle of an exchange and what waits for it."""
    exchange = Exchange(Deaf())
    exchange.body += b"x" * 1000
    exchange.on_end = list
    end(exchange)
    assert exchange.over
    assert not exchange.body
    assert exchange.on_end is None


@pytest.mark.parametrize(
    ("target", "means"),
    [
        (b"/a%2Fb?c=%20", (b"/a%2Fb", b"c=%20")),
        (b"http://host/a", (b"/a", b"")),
        (b"http://host", (b"/", b"")),
        (b"http://host?a=1", (b"/", b"a=1")),
    ],
)
def test_a_target_is_a_path_and_a_query(target: bytes, means: tuple[bytes, bytes]) -> None:
    exchange = Exchange(Nobody())
    exchange.target = target
    assert exchange.path_and_query() == means


def test_a_target_that_is_none_is_refused() -> None:
    exchange = Exchange(Nobody())
    exchange.target = b"host:80"
    with pytest.raises(InvalidHttpError):
        exchange.path_and_query()
