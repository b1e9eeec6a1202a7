"""The HTTP application: which call does what, and what is counted of it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import unquote_to_bytes

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from exporter import catalogue, errors
from exporter.answers import (
    STATUS_AND_CODE,
    Head,
    authenticate,
    expect_json,
    refusal,
    request_id_of,
    success,
)
from exporter.errors import ExporterError, StorageError
from exporter.http.exchange import Exchange, Reply
from exporter.ingest import Outcome
from exporter.metrics.monitoring import SelfMonitoring
from exporter.metrics.scrapes import Scrapes
from exporter.service import Service
from exporter.settings import Settings

ROUTES = {
    "/v1/push": ("POST",),
    "/v1/observations": ("POST",),
    "/metrics": ("GET", "HEAD"),
    "/-/healthy": ("GET", "HEAD"),
    "/-/ready": ("GET", "HEAD"),
}
"""The methods of each path."""

Count = Callable[[bytes], "asyncio.Future[Outcome]"]
"""Counts the messages of a body. Raises ExporterError, at once or in the future."""

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")

_log = structlog.get_logger("exporter.app")


class Application:
    """The exporter. It holds the state folder from its creation to the end of `running`.

    `registry` takes the exporter's metrics on itself; `clock` gives Unix seconds, and may jump; `monotonic`
    gives seconds that never do. Raises StartError.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_body_bytes = settings.max_body_bytes
        self.body_seconds = settings.body_timeout_seconds
        self._settings = settings
        self._tokens = _encoded(settings.read_tokens())
        codes = tuple(code for _, code in STATUS_AND_CODE.values())
        self._monitoring = SelfMonitoring(registry, codes)
        self._service = Service(settings, self._monitoring, clock, monotonic)
        self._scrapes = Scrapes(self._service.view, registry, self._monitoring)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take pushes until the end of the block, then write what waits and let go of the state folder."""
        self._service.start()
        _log.info("exporter_started", journal=self._service.journal)
        yield
        await self._service.stop()
        _log.info("exporter_stopped", journal=self._service.journal)

    def reload(self) -> None:
        """Read the label policy and the file of tokens again, as on SIGHUP. Call in the event loop."""
        self._service.reload_policy()
        self._reload_tokens()

    def begin(self, exchange: Exchange) -> None:
        """Answer a request, now or later."""
        head = dict(reversed(exchange.headers))
        request_id = request_id_of(head)
        try:
            path = unquote_to_bytes(exchange.path_and_query()[0]).decode("latin-1")
            if path not in ROUTES:
                raise errors.NotFoundError("Not Found")
            if exchange.method.decode() not in ROUTES[path]:
                raise errors.MethodNotAllowedError(*ROUTES[path])
            if exchange.method == b"POST":
                self._take(exchange, request_id, head, path)
            elif path == "/metrics":
                self._scrapes.begin(exchange, head, request_id, partial(self._refuse, exchange, request_id))
            elif path == "/-/ready" and not self._service.ready:
                raise errors.StorageFailedError(
                    "The last write to the journal failed: nothing is counted until a write succeeds"
                )
            elif path == "/-/ready":
                data = {"status": "ready", "journal": self._service.journal}
                exchange.answer(success(request_id, data))
            else:
                exchange.answer(success(request_id, {"status": "healthy"}))
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            self._refuse(exchange, request_id, error)

    def refuse(self, exchange: Exchange | None, error: ExporterError) -> Reply:
        """The answer to what is malformed, too much or too late."""
        head: Head = {} if exchange is None else dict(reversed(exchange.headers))
        if exchange is None:
            self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])
        else:
            self._count_refusal(exchange, error)
        return refusal(request_id_of(head), error)

    def evicted(self) -> None:
        """A connection was ended to make room for another."""
        self._monitoring.evicted(catalogue.CONNECTION)

    def _take(self, exchange: Exchange, request_id: str, head: Head, path: str) -> None:
        """Count what a body brings. Raises RequestRefusedError for what its head shows."""
        authenticate(head, self._tokens)
        expect_json(head)
        count: Count = self._service.ingest.push
        if path == "/v1/observations":
            key = head.get(b"idempotency-key", b"").decode("latin-1")
            if not _IDEMPOTENCY_KEY.fullmatch(key):
                raise errors.IdempotencyKeyMissingError(
                    "Send an Idempotency-Key of 1 to 128 visible ASCII characters"
                )
            count = partial(self._service.ingest.observe, key)

        def with_body(body: bytes) -> None:
            try:
                count(body).add_done_callback(settled)
            except Exception as error:  # noqa: BLE001 (every request gets an answer)
                self._refuse(exchange, request_id, error)

        def settled(counting: "asyncio.Future[Outcome]") -> None:
            try:
                data = self._counted(counting.result())
            except Exception as error:  # noqa: BLE001 (as above)
                self._refuse(exchange, request_id, error)
            else:
                exchange.answer(success(request_id, data))

        def ended() -> None:
            if not exchange.complete and not exchange.started:
                error = errors.BodyIncompleteError("The connection ended before the body")
                self._count_refusal(exchange, error)

        exchange.on_end = ended
        exchange.read(with_body)

    def _counted(self, outcome: Outcome) -> dict[str, object]:
        """The `data` of the answer to a batch that was taken."""
        self._monitoring.pushed("duplicate" if outcome.duplicate else "accepted")
        self._monitoring.dropped(outcome.dropped)
        return {"duplicate": outcome.duplicate, "journal": self._service.journal}

    def _refuse(self, exchange: Exchange, request_id: str, error: Exception) -> None:
        if isinstance(error, ExporterError):
            self._count_refusal(exchange, error)
        exchange.answer(refusal(request_id, error))

    def _count_refusal(self, exchange: Exchange, error: ExporterError) -> None:
        """Count what may have brought messages, and scrapes over the bound."""
        unrouted = isinstance(error, errors.NotFoundError | errors.MethodNotAllowedError)
        if exchange.method not in (b"GET", b"HEAD"):
            self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])
            if not unrouted:
                self._monitoring.pushed("failed" if isinstance(error, StorageError) else "rejected")
        elif not unrouted and not isinstance(error, StorageError):
            self._monitoring.rejected(STATUS_AND_CODE[type(error)][1])

    def _reload_tokens(self) -> None:
        """Read the file of tokens again; keep those in force if it is unusable."""
        if self._settings.ingest_tokens_file is None:
            return
        try:
            tokens = self._settings.read_tokens()
        except errors.SettingsError as error:
            self._monitoring.tokens_reloaded(successful=False)
            _log.error("tokens_kept", reason=error.message)
            return
        self._tokens = _encoded(tokens)
        self._monitoring.tokens_reloaded(successful=True)
        _log.info("tokens_reloaded", tokens=len(tokens))


def _encoded(tokens: Sequence[SecretStr]) -> list[bytes]:
    return [token.get_secret_value().encode() for token in tokens]
