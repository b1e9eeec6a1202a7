"""`/v1/ops/…`: people and scripts of role `ops`, by bearer token."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from anyio.to_thread import run_sync
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config_rollback.audit import chain as audit
from config_rollback.clock import isoformat
from config_rollback.errors import (
    ConfigChangedError,
    MonitoringUnavailableError,
    NotFoundError,
    NothingToRollBackError,
    TargetNotFoundError,
    VersionDamagedError,
)
from config_rollback.evidence import kpis
from config_rollback.personas import diff
from config_rollback.rollback.changes import (
    Acceptance,
    Accepted,
    Publication,
    Published,
    Rollback,
    RolledBack,
)
from config_rollback.rollback.lengths import MAX_ALERT_LENGTH, MAX_REASON_LENGTH
from config_rollback.storage.models import Version
from config_rollback.storage.store import Transaction
from config_rollback.web import access, acts
from config_rollback.web.api import response_models
from config_rollback.web.dependencies import dependencies, read
from config_rollback.web.http import new_persona_of, persona_of, plain_text, read_json, success
from config_rollback.web.operation import operation
from config_rollback.web.query import Number, Query, Text, number_of, query_of

Reason = Annotated[str, AfterValidator(lambda value: plain_text(value, "reason", MAX_REASON_LENGTH))]
AlertName = Annotated[str, AfterValidator(lambda value: plain_text(value, "alert", MAX_ALERT_LENGTH))]


class TwoVersions(Query):
    """Of a comparison."""

    before: Number = Field(alias="from")
    after: Number = Field(alias="to")


class KpiQuery(Query):
    """Which messages, see `kpis.Selection`."""

    window: kpis.Window
    journey: Text | None = None
    persona: Text | None = None
    config_version: Text | None = None


class PublishBody(BaseModel):
    """`POST …/versions`. `expected_version`: what must be active, 0 for nothing yet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    config: dict[str, Any]
    note: Annotated[str, AfterValidator(lambda value: plain_text(value, "note", MAX_REASON_LENGTH))] = ""
    expected_version: Annotated[int, Field(ge=0, le=999_999_999)] | None = None


class AcceptanceBody(BaseModel):
    """`POST …/baseline`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expected_version: int = Field(ge=1, le=999_999_999)
    reason: Reason | None = None


class RollbackBody(BaseModel):
    """`POST …/rollback`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expected_version: int = Field(ge=1, le=999_999_999)
    to_version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    reason: Reason | None = None
    alert: AlertName | None = None


@operation("ops", list[response_models.Persona])
async def list_personas(request: Request) -> Response:
    """Every persona, what it serves, and what a rollback would restore by default."""
    await access.require_ops(request, "read")
    query_of(request, Query)

    def rows(transaction: Transaction) -> list[dict[str, Any]]:
        return [
            {
                "persona": activation.persona,
                "active_version": activation.version,
                "action": activation.action,
                "from_version": activation.from_version,
                "activated_at": isoformat(activation.activated_at),
                "activated_by": activation.activated_by,
                "audit_id": activation.audit_id,
                "rollback_to": transaction.default_target(activation),
            }
            for activation, _ in transaction.all_active()
        ]

    return success(request, await read(request, rows))


@operation("ops", list[response_models.Version], errors=(NotFoundError,))
async def list_versions(request: Request) -> Response:
    """A persona's versions, newest first."""
    persona = persona_of(request)
    await access.require_ops(request, "read", persona)
    query_of(request, Query)

    def rows(transaction: Transaction) -> list[dict[str, Any]]:
        active = transaction.active(persona)
        if active is None:
            raise NotFoundError("there is no such persona")
        return [_version(row, active.version) for row in transaction.versions(persona)]

    return success(request, await read(request, rows))


@operation("ops", response_models.VersionWithConfig, errors=(NotFoundError,))
async def get_version(request: Request) -> Response:
    """One version with its configuration."""
    persona = persona_of(request)
    await access.require_ops(request, "read", persona)
    query_of(request, Query)
    number = number_of(request.path_params["number"], "version")

    def version(transaction: Transaction) -> dict[str, Any]:
        active, row = transaction.active(persona), transaction.version(persona, number)
        if active is None or row is None:
            raise NotFoundError("there is no such version")
        return _version(row, active.version) | {"config": row.config}

    return success(request, await read(request, version))


@operation("ops", response_models.Diff, query=TwoVersions, errors=(NotFoundError,))
async def get_diff(request: Request) -> Response:
    """The fields in which two versions differ."""
    persona = persona_of(request)
    await access.require_ops(request, "read", persona)
    query = query_of(request, TwoVersions)

    def changes(transaction: Transaction) -> list[dict[str, Any]]:
        before = transaction.version(persona, query.before)
        after = transaction.version(persona, query.after)
        if before is None or after is None:
            raise NotFoundError("there is no such version")
        return [asdict(change) for change in diff.changes(before.config, after.config)]

    found = await read(request, changes)
    return success(request, {"persona": persona, **query.model_dump(by_alias=True), "changes": found})


@operation(
    "ops", Published, status=201, is_act=True, body=PublishBody, errors=(NotFoundError, ConfigChangedError)
)
async def publish(request: Request) -> Response:
    """Adds a version and activates it."""
    persona = new_persona_of(request)
    actor = await access.require_ops(request, "publish", persona)
    body = await read_json(request, PublishBody)
    publication = Publication(persona, body.config, body.note, body.expected_version)
    change = dependencies(request).changes.publish
    result = await acts.activate(request, change, publication, acts.call_of(request, actor))
    return success(request, asdict(result), status=201)


@operation(
    "ops",
    RolledBack,
    is_act=True,
    body=RollbackBody,
    errors=(
        NotFoundError,
        TargetNotFoundError,
        ConfigChangedError,
        NothingToRollBackError,
        VersionDamagedError,
    ),
)
async def roll_back(request: Request) -> Response:
    """Activates an older version."""
    persona = persona_of(request)
    actor = await access.require_ops(request, "rollback", persona)
    body = await read_json(request, RollbackBody)
    rollback = Rollback(persona, body.expected_version, body.to_version, body.reason, body.alert)
    change = dependencies(request).changes.roll_back
    result = await acts.activate(request, change, rollback, acts.call_of(request, actor))
    return success(request, asdict(result))


@operation("ops", Accepted, is_act=True, body=AcceptanceBody, errors=(NotFoundError, ConfigChangedError))
async def accept_baseline(request: Request) -> Response:
    """Takes what the persona does now for normal; no configuration changes."""
    persona = persona_of(request)
    actor = await access.require_ops(request, audit.ACCEPT_BASELINE, persona)
    body = await read_json(request, AcceptanceBody)
    acceptance = Acceptance(persona, body.expected_version, body.reason)
    accept = dependencies(request).changes.accept_baseline
    result = await run_sync(accept, acceptance, acts.call_of(request, actor))
    return success(request, asdict(result))


@operation("ops", response_models.Kpis, query=KpiQuery, errors=(MonitoringUnavailableError,))
async def get_kpis(request: Request) -> Response:
    """The four KPI of a window."""
    await access.require_ops(request, "read")
    selection = kpis.Selection(**query_of(request, KpiQuery).model_dump())
    return success(request, await dependencies(request).kpis.read(selection))


def _version(row: Version, active: int) -> dict[str, Any]:
    return {
        "version": row.number,
        "content_hash": row.content_hash,
        "created_at": isoformat(row.created_at),
        "created_by": row.created_by,
        "note": row.note,
        "active": row.number == active,
    }


PERSONA = "/v1/ops/personas/{persona}"

routes = [
    Route("/v1/ops/personas", list_personas),
    Route(f"{PERSONA}/versions", list_versions),
    Route(f"{PERSONA}/versions", publish, methods=["POST"]),
    Route(f"{PERSONA}/versions/{{number}}", get_version),
    Route(f"{PERSONA}/diff", get_diff),
    Route(f"{PERSONA}/rollback", roll_back, methods=["POST"]),
    Route(f"{PERSONA}/baseline", accept_baseline, methods=["POST"]),
    Route("/v1/ops/monitoring/conversation-kpis", get_kpis),
]
