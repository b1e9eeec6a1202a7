"""`/metrics`: the counters and the exporter's own metrics, for a bounded number of readers at once."""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from math import inf

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from exporter import catalogue
from exporter.answers import Head
from exporter.errors import TooManyScrapesError
from exporter.http.exchange import Exchange, Header
from exporter.metrics.monitoring import SelfMonitoring
from exporter.metrics.render import View, render

MAX_SCRAPES = 8
"""Scrapes at once: each holds a copy of all counters until its answer is read."""
MAX_WAITING = 64
"""Scrapes that may wait for a place."""
PLACE_SECONDS, LOOK_SECONDS = 5.0, 0.02
"""How long a scrape waits for a place, and how often the first one that waits looks for it."""

_log = structlog.get_logger("exporter.metrics.scrapes")


class Scrapes:
    """Answers so many scrapes at once; one more takes the place of that whose reader is slowest.

    Where no reader is slow, a few scrapes wait in their order.
    """

    def __init__(
        self, view: Callable[[], View], registry: CollectorRegistry, monitoring: SelfMonitoring
    ) -> None:
        self._view = view
        self._registry = registry
        self._monitoring = monitoring
        self._running: set[Exchange] = set()
        self._turn = asyncio.Lock()  # which is given in the order in which it was asked for
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self, exchange: Exchange, head: Head, request_id: str, refuse: Callable[[Exception], None]
    ) -> None:
        """Answer a scrape, or have it refused with TooManyScrapesError. Raises it if too many wait."""
        if len(self._tasks) >= MAX_SCRAPES + MAX_WAITING:
            raise TooManyScrapesError(f"{MAX_WAITING} scrapes wait for their turn: try again later")
        task = asyncio.create_task(self._answer(exchange, head, request_id, refuse))
        exchange.on_end = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, exchange: Exchange, head: Head, request_id: str, refuse: Callable[[Exception], None]
    ) -> None:
        try:
            await self._take_place(exchange)
            await self._write(exchange, head, request_id)
        except Exception as error:  # noqa: BLE001 (every request gets an answer, or its end)
            if exchange.started:
                _log.error("internal_error", request_id=request_id, exc_info=error)
                exchange.abort()
            else:
                refuse(error)
        finally:
            self._running.discard(exchange)

    async def _write(self, exchange: Exchange, head: Head, request_id: str) -> None:
        own_metrics, content_type = choose_encoder(head.get(b"accept", b"").decode("latin-1"))
        headers: list[Header] = [
            (b"content-type", content_type.encode()),
            (b"vary", b"Accept, Accept-Encoding"),
            (b"x-request-id", request_id.encode()),
        ]
        compressor = None
        if gzip_accepted(head.get(b"accept-encoding", b"").decode("latin-1")):
            compressor = zlib.compressobj(level=1, wbits=31)
            headers.append((b"content-encoding", b"gzip"))
        exchange.start(200, headers)
        if exchange.method != b"HEAD":
            for piece in self._pieces(content_type.startswith("application/openmetrics-text")):
                exchange.write(compressor.compress(piece) if compressor else piece)
                await asyncio.sleep(0)  # lets pushes through
                await exchange.drain()
            last = own_metrics(self._registry)
            exchange.write(compressor.compress(last) + compressor.flush() if compressor else last)
        exchange.finish()

    def _pieces(self, openmetrics: bool) -> Iterator[bytes]:
        for piece in render(self._view(), openmetrics):
            yield piece.encode()

    async def _take_place(self, exchange: Exchange) -> None:
        """Wait for a place: of a scrape that is done, or of one that waits for its reader."""
        try:
            async with asyncio.timeout(PLACE_SECONDS), self._turn:
                while len(self._running) >= MAX_SCRAPES and not self._make_room():  # noqa: ASYNC110 (slow readers wake nobody)
                    await asyncio.sleep(LOOK_SECONDS)
                self._running.add(exchange)
        except TimeoutError:
            raise TooManyScrapesError(f"{MAX_SCRAPES} scrapes are being answered: try again later") from None

    def _make_room(self) -> bool:
        slowest = min(self._running, key=lambda exchange: exchange.waiting_since)
        if slowest.waiting_since == inf:
            return False
        self._running.discard(slowest)
        slowest.abort()
        self._monitoring.evicted(catalogue.SCRAPE)
        return True
