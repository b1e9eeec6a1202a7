"""`/v1/ops/access`: who is blocked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from anyio.to_thread import run_sync
from pydantic import AfterValidator, BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.audit import chain as audit
from config_rollback.auth.claims import is_plain
from config_rollback.auth.shut_out import Decided, Person
from config_rollback.clock import isoformat
from config_rollback.errors import NotFoundError, OwnAccessError, TooManyShutOutError
from config_rollback.rollback.attempts import Call
from config_rollback.web import access, acts
from config_rollback.web.api import response_models
from config_rollback.web.api.ops import Reason
from config_rollback.web.dependencies import dependencies, read
from config_rollback.web.http import read_json, success
from config_rollback.web.operation import operation
from config_rollback.web.query import Query, query_of


def _plain(value: str) -> str:
    if not is_plain(value):
        raise ValueError("cannot be the name in a token")
    return value


Name = Annotated[str, AfterValidator(_plain)]


class PersonBody(BaseModel):
    """The person: a subject as audit rows name it, and its issuer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    subject: Name
    issuer: Name
    reason: Reason | None = None


@operation("ops", list[response_models.ShutOut])
async def list_people(request: Request) -> Response:
    """Who is blocked, the newest first."""
    await access.require_ops(request, "read")
    query_of(request, Query)

    people = await read(request, lambda transaction: transaction.shut_out_people())
    rows = [
        {"issuer": person.issuer, "subject": person.subject, "since": isoformat(person.since)}
        for person in people
    ]
    return success(request, rows)


@operation("ops", Decided, is_act=True, body=PersonBody, errors=(OwnAccessError, TooManyShutOutError))
async def revoke(request: Request) -> Response:
    """Blocks a person: their sessions end, their tokens open nothing."""
    return await _decide(request, audit.SHUT_OUT, dependencies(request).shut_out.add)


@operation("ops", Decided, is_act=True, body=PersonBody, errors=(NotFoundError, OwnAccessError))
async def allow(request: Request) -> Response:
    """Unblocks a person, who must then log in again."""
    return await _decide(request, audit.LET_IN, dependencies(request).shut_out.remove)


async def _decide(request: Request, action: str, decide: Callable[[Person, Call], Decided]) -> Response:
    actor = await access.require_ops(request, action)
    body = await read_json(request, PersonBody)
    person = Person(body.issuer, body.subject, body.reason)
    return success(request, asdict(await run_sync(decide, person, acts.call_of(request, actor))))


routes = [
    Route("/v1/ops/access", list_people),
    Route("/v1/ops/access/revoke", revoke, methods=["POST"]),
    Route("/v1/ops/access/allow", allow, methods=["POST"]),
]
