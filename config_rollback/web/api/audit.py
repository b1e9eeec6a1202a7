"""`/v1/ops/audit…`: the record, in pages, whole, and whether it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from config_rollback.audit import chain as audit
from config_rollback.audit import exports
from config_rollback.audit.record import Entry
from config_rollback.clock import isoformat
from config_rollback.errors import InvalidRequestError
from config_rollback.storage.models import AuditRow
from config_rollback.web import access
from config_rollback.web.audit_filter import AuditFilter
from config_rollback.web.dependencies import read
from config_rollback.web.http import success
from config_rollback.web.operation import operation
from config_rollback.web.query import Number, Query, Text, Whole, query_of

EXPORTED_AT_ONCE = 100
EXPORTED_CHARACTERS = 1_000_000
"""Of configurations that are read together: a row of an act carries one, of up to a megabyte."""


class After(Query):
    """Of an export."""

    after: Number | None = None


class KnownHead(Query):
    """Of a check."""

    head: Text | None = None


class AuditPage(AuditFilter):
    """Of a list."""

    limit: Annotated[Whole, Field(ge=1, le=1000)] = 100
    cursor: Number | None = None


@operation(
    "ops", list[audit.ListedAttempt], query=AuditPage, more={"next_cursor": {"type": ["string", "null"]}}
)
async def list_rows(request: Request) -> Response:
    """Audit rows, newest first; `cursor` continues where the last answer ended."""
    await access.require_ops(request, "read")
    query = query_of(request, AuditPage)

    found = await read(
        request, lambda transaction: transaction.audit_rows(query.limit, query.cursor, **query.columns())
    )
    rows = [_plain(row) for row in found]
    more = len(rows) == query.limit and rows[-1]["audit_id"] > 1
    return success(request, rows, next_cursor=str(rows[-1]["audit_id"]) if more else None)


@operation("ops", None, query=After, media_type="application/x-ndjson")
async def export(request: Request) -> Response:
    """Every row, oldest first, with its activation and version, as JSON Lines to verify without the service.

    A row of an act has its `activation` and the `version` that serves from then on; what no row tells of is a
    `stray`, at the end. `after`: only the rows after this one. An answer that ends early has no last chunk:
    clients see an error.
    """
    await access.require_ops(request, "read")
    after = query_of(request, After).after or 0

    async def entries_after(row: int) -> Sequence[Entry]:
        return await read(
            request,
            lambda transaction: transaction.entries_after(row, EXPORTED_AT_ONCE, EXPORTED_CHARACTERS),
        )

    # The first part is read before the answer begins, so that a database that fails is a 503.
    first = await entries_after(after)

    async def lines() -> AsyncIterator[bytes]:
        entries = first
        while entries:
            yield b"".join(exports.line(entry) for entry in entries)
            entries = await entries_after(entries[-1].row.audit_id)
        strays = await read(request, lambda transaction: list(transaction.strays()))
        yield b"".join(exports.line(stray) for stray in strays)

    return StreamingResponse(
        lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
    )


@operation("ops", audit.Verification, query=KnownHead)
async def verify(request: Request) -> Response:
    """Walks the chain, and holds versions and activations against it.

    `head` (`<audit_id>:<hash>`, from a log line) must be part of it.
    """
    await access.require_ops(request, "read")
    given = query_of(request, KnownHead).head
    try:
        known = None if given is None else audit.Head.parse(given)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None

    verification = await read(request, lambda transaction: transaction.verify_audit(known))
    return success(request, asdict(verification))


def _plain(row: AuditRow) -> dict[str, Any]:
    """A row for the list; its time is written as it was hashed."""
    return {name: getattr(row, name) for name in audit.LISTED_FIELDS} | {"at": isoformat(row.at)}


routes = [
    Route("/v1/ops/audit", list_rows, name="list_audit"),
    Route("/v1/ops/audit/export", export, name="export_audit"),
    Route("/v1/ops/audit/verify", verify, name="verify_audit"),
]
