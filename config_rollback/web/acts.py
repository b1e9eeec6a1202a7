"""Runs a change for the API or a page: off the event loop, and with everyone who waits for it woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from anyio.to_thread import run_sync
from starlette.requests import Request

from config_rollback.errors import UnavailableError
from config_rollback.rollback.attempts import Actor, Call
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import request_id
from config_rollback.web.query import key_of

Wanted = TypeVar("Wanted")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


def call_of(request: Request, actor: Actor) -> Call:
    """The circumstances of an act by the API. Raises as `key_of`."""
    return Call(actor, request_id(request), key_of(request))


async def activate(
    request: Request, change: Callable[[Wanted, Call], Result], wanted: Wanted, call: Call
) -> Result:
    """Carries out a change of `Changes` that activates a version, and delivers it. Raises as the change."""
    result = await run_sync(change, wanted, call)
    try:
        await dependencies(request).delivery.refresh()
    except UnavailableError as error:
        # The change is done and must be answered so; `Delivery.watch` will bring it to the clients.
        log.warning("delivery_refresh_failed", error=error.message)
    return result
