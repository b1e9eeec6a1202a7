"""Scrapes: so many at once, the others in their order, and no more than may wait."""

import asyncio
from functools import partial
from math import inf

import pytest
from prometheus_client import CollectorRegistry

from exporter.errors import TooManyScrapesError
from exporter.http.exchange import Exchange
from exporter.metrics import scrapes
from exporter.metrics.monitoring import SelfMonitoring
from exporter.metrics.render import View
from exporter.metrics.scrapes import MAX_SCRAPES, MAX_WAITING, Scrapes


class Reader:
    """A line whose peer reads the answer when it is told to, and is never slow."""

    date = b""
    waiting_since = inf

    def __init__(self) -> None:
        self.reads, self.started, self.done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def write(self, data: bytes) -> None:
        self.started.set()

    async def drain(self) -> None:
        await self.reads.wait()

    def finished(self, exchange: Exchange) -> None:
        self.done.set()

    def read_on(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


def begin(answering: Scrapes, count: int) -> list[Reader]:
    """Begin so many scrapes."""
    readers = [Reader() for _ in range(count)]
    for reader in readers:
        answering.begin(Exchange(reader), {}, "id", lambda error: pytest.fail(str(error)))
    return readers


def scrapes_of_nothing() -> Scrapes:
    registry = CollectorRegistry()
    return Scrapes(partial(View, (), (), ()), registry, SelfMonitoring(registry, ()))


def test_scrapes_that_wait_are_answered_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "PLACE_SECONDS", 60.0)

    async def run() -> None:
        answering = scrapes_of_nothing()
        readers = begin(answering, MAX_SCRAPES + 5)
        for done, next_one in zip(readers[:5], readers[MAX_SCRAPES:], strict=True):
            await asyncio.sleep(2 * scrapes.LOOK_SECONDS)
            assert not next_one.started.is_set()
            done.reads.set()
            await done.done.wait()
            readers += begin(answering, 1)  # just when there is a place
            await asyncio.wait_for(next_one.started.wait(), 60)
        for reader in readers:
            reader.reads.set()
            await reader.done.wait()

    asyncio.run(run())


def test_a_scrape_behind_as_many_as_may_wait_is_refused_at_once() -> None:
    async def run() -> None:
        answering = scrapes_of_nothing()
        begin(answering, MAX_SCRAPES + MAX_WAITING)
        with pytest.raises(TooManyScrapesError):
            begin(answering, 1)

    asyncio.run(run())
