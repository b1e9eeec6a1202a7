"""Runs a change for the API or a page: off the event loop, and with everyone who waits for it woken."""

from __future__ import annotations

from functools import partial

import structlog
from anyio.to_thread import run_sync
from starlette.requests import Request

from config_rollback.errors import UnavailableError
from config_rollback.rollback.attempts import Call
from config_rollback.rollback.changes import Publication, Published, Rollback, RolledBack
from config_rollback.web.services import services

log = structlog.get_logger(__name__)


async def publish(request: Request, wish: Publication, call: Call) -> Published:
    """See `Changes.publish`."""
    result = await run_sync(partial(services(request).changes.publish, wish, call))
    await _deliver(request)
    return result


async def roll_back(request: Request, wish: Rollback, call: Call) -> RolledBack:
    """See `Changes.roll_back`."""
    result = await run_sync(partial(services(request).changes.roll_back, wish, call))
    await _deliver(request)
    return result


async def _deliver(request: Request) -> None:
    try:
        await services(request).delivery.refresh()
    except UnavailableError as error:
        # The change is done and must be answered so; `Delivery.watch` will bring it to the clients.
        log.warning("delivery_refresh_failed", error=error.message)
