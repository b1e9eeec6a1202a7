"""`/v1/personas/…`: services that serve a persona, by service token."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback import access
from config_rollback.api import shapes
from config_rollback.api.operation import operation
from config_rollback.delivery import ActiveConfig
from config_rollback.errors import InvalidRequestError, NotFoundError
from config_rollback.http import number_of, persona_of, plain_text, query_of, request_id
from config_rollback.middleware import QUIET
from config_rollback.services import services

MAX_WAIT_SECONDS = 60
MAX_CLIENT_LENGTH = 128


@operation(
    "service",
    shapes.ActiveConfig,
    query={
        "wait": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS},
        "client": {"type": "string", "maxLength": MAX_CLIENT_LENGTH},
        "serving": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    headers={"If-None-Match": {"type": "string"}},
    errors=(NotFoundError,),
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
    query = query_of(request, "wait", "client", "serving")
    wait = _wait(query.get("wait", "0"))
    here = services(request)
    if "client" in query:
        client = plain_text(query["client"], "client", MAX_CLIENT_LENGTH)
        if "serving" in query:
            here.clients.report(persona, client, number_of(query["serving"], "serving"))
    tag = _known_tag(request, here.delivery.active.get(persona))
    await here.delivery.catch_up(tag)
    config = await here.delivery.wait_for_change(persona, tag, wait)
    if config is not None:
        return _answer(request, config)
    if persona not in here.delivery.active:
        raise NotFoundError("no such persona")
    return Response(status_code=304, headers={"ETag": tag or "", "Cache-Control": "no-cache"})


def _answer(request: Request, config: ActiveConfig) -> Response:
    head = {
        "persona": config.persona,
        "version": config.version,
        "content_hash": config.content_hash,
        "activated_at": config.activated_at,
    }
    # The configuration is JSON already; only the envelope is new.
    body = (
        f'{{"data":{json.dumps(head)[:-1]},"config":{config.config_json}}},'
        f'"request_id":"{request_id(request)}"}}'
    )
    return Response(
        body, media_type="application/json", headers={"ETag": config.etag, "Cache-Control": "no-cache"}
    )


def _known_tag(request: Request, config: ActiveConfig | None) -> str | None:
    """The tag that the client has, for comparison with a later one (RFC 9110, section 13.1.2)."""
    given = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if config is not None and ("*" in given or config.etag in given):
        return config.etag
    return given[0] or None


def _wait(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:4]) <= MAX_WAIT_SECONDS and len(text) <= 4):
        raise InvalidRequestError(f"wait is a whole number of seconds up to {MAX_WAIT_SECONDS}")
    return int(text)


routes = [Route("/v1/personas/{persona}/config", get_config)]
