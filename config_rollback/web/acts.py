"""Runs a change for the API or a page: off the event loop, and with everyone who waits for it woken."""

from __future__ import annotations

from functools import partial

import structlog
from anyio.to_thread import run_sync
from starlette.requests import Request

from config_rollback.errors import UnavailableError
from config_rollback.rollback.attempts import Actor, Call
from config_rollback.rollback.changes import Publication, Published, Rollback, RolledBack
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import request_id
from config_rollback.web.query import key_of

log = structlog.get_logger(__name__)


def call_of(request: Request, actor: Actor) -> Call:
    """The circumstances of an act by the API. Raises as `key_of`."""
    return Call(actor, request_id(request), key_of(request))


async def publish(request: Request, publication: Publication, call: Call) -> Published:
    """See `Changes.publish`."""
    result = await run_sync(partial(dependencies(request).changes.publish, publication, call))
    await _deliver(request)
    return result


async def roll_back(request: Request, rollback: Rollback, call: Call) -> RolledBack:
    """See `Changes.roll_back`."""
    result = await run_sync(partial(dependencies(request).changes.roll_back, rollback, call))
    await _deliver(request)
    return result


async def _deliver(request: Request) -> None:
    try:
        await dependencies(request).delivery.refresh()
    except UnavailableError as error:
        # The change is done and must be answered so; `Delivery.watch` will bring it to the clients.
        log.warning("delivery_refresh_failed", error=error.message)
