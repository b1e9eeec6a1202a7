"""`/v1/personas/…`: services that serve a persona, by service token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.delivery.delivery import ActiveConfig
from config_rollback.errors import ConfigWithheldError, InvalidRequestError, NotFoundError, TooManyPollsError
from config_rollback.web import access
from config_rollback.web.api import shapes
from config_rollback.web.api.operation import operation
from config_rollback.web.http import (
    checked_query,
    number_of,
    persona_of,
    plain_text,
    request_id,
    while_connected,
)
from config_rollback.web.middleware import QUIET
from config_rollback.web.services import services

MAX_WAIT_SECONDS = 60
MAX_CLIENT_LENGTH = 128
CACHE_CONTROL = "no-cache"


@operation(
    "service",
    shapes.ActiveConfig,
    query={
        "wait": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS},
        "client": {"type": "string", "maxLength": MAX_CLIENT_LENGTH},
        "serving": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    headers={"If-None-Match": {"type": "string"}},
    errors=(NotFoundError, TooManyPollsError, ConfigWithheldError),
    other={304: "Nothing newer than If-None-Match"},
)
async def get_config(request: Request) -> Response:
    """The active configuration, as soon as it differs from `If-None-Match`.

    `wait`: seconds until 304 (404 for a persona that nobody published). `client` and `serving`: which process
    asks, and which version it serves meanwhile.
    """
    request.scope[QUIET] = True
    access.require_service(request)
    persona = persona_of(request)
    query = read_query(request.scope["query_string"])
    here = services(request)
    if query.client is not None and query.serving is not None:
        here.clients.report(persona, query.client, query.serving)
    tag = _known_tag(request, here.delivery.active.get(persona))
    await here.delivery.catch_up(tag)
    config = await while_connected(request, here.delivery.wait_for_change(persona, tag, query.wait))
    if config is not None:
        return Response(
            f'{envelope(config)}"{request_id(request)}"}}',
            media_type="application/json",
            headers={"ETag": config.etag, "Cache-Control": CACHE_CONTROL},
        )
    if persona not in here.delivery.active and persona in here.delivery.withheld:
        raise ConfigWithheldError("the audit does not vouch for what is active; keep what you have")
    if persona not in here.delivery.active:
        raise NotFoundError("no such persona")
    return Response(status_code=304, headers={"ETag": tag or "", "Cache-Control": CACHE_CONTROL})


@dataclass(frozen=True)
class Query:
    """What a serving process asks and says."""

    wait: int
    client: str | None
    serving: int | None


@lru_cache(maxsize=4096)
def read_query(raw: bytes) -> Query:
    """The query string; raises `InvalidRequestError`. Processes ask the same again and again."""
    given = checked_query(
        parse_qsl(raw.decode("latin-1"), keep_blank_values=True), "wait", "client", "serving"
    )
    wait, client, serving = given.get("wait", "0"), given.get("client"), given.get("serving")
    if not (wait.isascii() and wait.isdecimal() and len(wait) <= 4 and int(wait) <= MAX_WAIT_SECONDS):
        raise InvalidRequestError(f"wait is a whole number of seconds up to {MAX_WAIT_SECONDS}")
    return Query(
        int(wait),
        None if client is None else plain_text(client, "client", MAX_CLIENT_LENGTH),
        None if serving is None else number_of(serving, "serving"),
    )


def envelope(config: ActiveConfig) -> str:
    """The answer up to the request id. The configuration is JSON already; only what is around it is new."""
    head = {
        "persona": config.persona,
        "version": config.version,
        "content_hash": config.content_hash,
        "activated_at": config.activated_at,
    }
    return f'{{"data":{json.dumps(head)[:-1]},"config":{config.config_json}}},"request_id":'


def _known_tag(request: Request, config: ActiveConfig | None) -> str | None:
    """The tag that the client has, for comparison with a later one (RFC 9110, section 13.1.2)."""
    given = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if config is not None and ("*" in given or config.etag in given):
        return config.etag
    return given[0] or None


routes = [Route("/v1/personas/{persona}/config", get_config)]
