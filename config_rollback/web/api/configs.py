"""`/v1/personas/…`: services that serve a persona, by service token."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.delivery.delivery import ActiveConfig
from config_rollback.errors import ConfigWithheldError, NotFoundError, TooManyPollsError
from config_rollback.web import access
from config_rollback.web.api import response_models
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import persona_of, plain_text, request_id, while_connected
from config_rollback.web.operation import operation
from config_rollback.web.query import Number, Query, Whole, parse

MAX_WAIT_SECONDS = 60
MAX_CLIENT_LENGTH = 128
CACHE_CONTROL = "no-cache"


Client = Annotated[
    str,
    Field(max_length=MAX_CLIENT_LENGTH),
    AfterValidator(lambda name: plain_text(name, "client", MAX_CLIENT_LENGTH)),
]


class ConfigQuery(Query):
    """How long to wait for a change, in seconds; which process asks, and which version it serves."""

    wait: Annotated[Whole, Field(ge=0, le=MAX_WAIT_SECONDS)] = 0
    client: Client | None = None
    serving: Number | None = None


@operation(
    "service",
    response_models.ActiveConfig,
    query=ConfigQuery,
    headers={"If-None-Match": {"type": "string"}},
    errors=(NotFoundError, TooManyPollsError, ConfigWithheldError),
    other={304: "Nothing newer than If-None-Match"},
    is_quiet=True,
)
async def get_config(request: Request) -> Response:
    """The active configuration, as soon as it differs from `If-None-Match`.

    Nothing new within `wait` is 304, or 404 for a persona that nobody published.
    """
    deps = dependencies(request)
    access.require_machine(request, deps.settings.service_tokens)
    persona = persona_of(request)
    query = read_query(request.scope["query_string"])
    if query.client is not None and query.serving is not None:
        deps.clients.report(persona, query.client, query.serving)
    tag = _known_tag(request, deps.delivery.active.get(persona))
    await deps.delivery.catch_up(tag)
    config = await while_connected(request, deps.delivery.wait_for_change(persona, tag, query.wait))
    if config is not None:
        return Response(
            f'{envelope(config)}"{request_id(request)}"}}',
            media_type="application/json",
            headers={"ETag": config.etag, "Cache-Control": CACHE_CONTROL},
        )
    if persona not in deps.delivery.active and persona in deps.delivery.withheld:
        raise ConfigWithheldError(
            "the audit log does not confirm the active version: keep the configuration that you have"
        )
    if persona not in deps.delivery.active:
        raise NotFoundError("there is no such persona")
    return Response(status_code=304, headers={"ETag": tag or "", "Cache-Control": CACHE_CONTROL})


@lru_cache(maxsize=4096)
def read_query(raw: bytes) -> ConfigQuery:
    """The query string; raises `InvalidRequestError`. Processes ask the same again and again."""
    return parse(parse_qsl(raw.decode("latin-1"), keep_blank_values=True), ConfigQuery)


def envelope(config: ActiveConfig) -> str:
    """The response up to the request id. The configuration is JSON already, and is not encoded again."""
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
