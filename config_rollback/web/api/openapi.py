"""`/openapi.json`: made from the routes and what their handlers declare (`operation.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from config_rollback import errors
from config_rollback.errors import ConfigRollbackError
from config_rollback.personas.persona_config import MAX_PERSONA_LENGTH
from config_rollback.web.http import json_response
from config_rollback.web.operation import Operation, operation_of
from config_rollback.web.query import KEY, NUMBER

REF = "#/components/schemas/{model}"
ERROR = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
            },
        },
        "request_id": {"type": "string"},
    },
}
EVERY = (errors.MethodNotAllowedError, errors.StorageBusyError, errors.StorageUnavailableError)
PEOPLE = (
    errors.UnauthenticatedError,
    errors.TokenInvalidError,
    errors.TokenExpiredError,
    errors.TokenScopeMismatchError,
    errors.ForbiddenError,
    errors.ShutOutError,
    errors.InvalidRequestError,
    errors.RateLimitedError,
    errors.LoginUnavailableError,
    errors.AuditUnavailableError,  # a refused call is audited
)
MACHINES = (errors.UnauthenticatedError, errors.TokenInvalidError, errors.InvalidRequestError)
ACTS = (
    errors.IdempotencyKeyMissingError,
    errors.IdempotencyKeyReusedError,
    errors.RequestInProgressError,
    errors.OutcomeUnknownError,
)
BODIES = (
    errors.InvalidJsonError,
    errors.BodyTooLargeError,
    errors.RequestTimeoutError,
    errors.UnsupportedMediaTypeError,
    errors.UnsupportedEncodingError,
)


def route(routes: Iterable[BaseRoute]) -> Route:
    """The route that answers with the description of `routes`."""
    described = cache(lambda: describe(routes))  # at the first request: most processes never get one

    async def show(_: Request) -> Response:
        """This document."""
        return json_response(described())

    return Route("/openapi.json", show)


def describe(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route whose handler declares an operation."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": ERROR}
    for entry in routes:
        operation = operation_of(getattr(entry, "endpoint", None))
        if isinstance(entry, Route) and operation is not None:
            for method in sorted((entry.methods or set()) - {"HEAD"}):
                described = _operation(entry, operation, schemas)
                paths.setdefault(entry.path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Driftback config_rollback", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                caller: {"type": "http", "scheme": "bearer"} for caller in ("ops", "service", "alertmanager")
            },
        },
    }


def _operation(entry: Route, operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = partial(_schema, schemas)
    summary = (entry.endpoint.__doc__ or "").strip().partition("\n")[0]
    described: dict[str, Any] = {
        "operationId": entry.name,
        "summary": summary,
        "parameters": _parameters(entry.path, operation),
        "responses": _responses(operation, schema),
    }
    if operation.caller != "anyone":
        described["security"] = [{operation.caller: []}]
    if operation.body is not None:
        content = {"application/json": {"schema": schema(operation.body, mode="validation")}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in re.findall(r"{(\w+)}", path)
    ]
    query = operation.query.model_json_schema()
    for name, schema in query["properties"].items() if "properties" in query else ():
        required = name in query.get("required", ())
        found.append({"name": name, "in": "query", "required": required, "schema": _given(schema)})
    for name, schema in operation.headers.items():
        found.append({"name": name, "in": "header", "required": False, "schema": schema})
    if operation.is_act:
        key = KEY.json_schema()
        found.append({"name": "Idempotency-Key", "in": "header", "required": True, "schema": key})
    return found


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is given: not null."""
    kinds = [kind for kind in schema.pop("anyOf", ()) if kind != {"type": "null"}]
    return {**schema, **(kinds[0] if kinds else {})}


def _path_schema(name: str) -> dict[str, Any]:
    if name == "number":
        return NUMBER.json_schema()
    return {"type": "string", "minLength": 1, "maxLength": MAX_PERSONA_LENGTH}


def _responses(operation: Operation, schema: Any) -> dict[str, Any]:
    if operation.data is None:
        good: dict[str, Any] = {
            "description": "Done",
            "content": {operation.media_type: {"schema": {"type": "string"}}},
        }
    else:
        fields = {"data": schema(operation.data), **operation.more, "request_id": {"type": "string"}}
        envelope = {"type": "object", "required": list(fields), "properties": fields}
        good = {"description": "Done", "content": {"application/json": {"schema": envelope}}}
    responses: dict[str, Any] = {str(operation.status): good}
    responses |= {str(code): {"description": text} for code, text in operation.other.items()}
    codes: dict[int, set[str]] = {}
    for error in _errors(operation):
        codes.setdefault(error.status, set()).add(error.code)
    for number, names in sorted(codes.items()):
        content = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}
        responses[str(number)] = {"description": ", ".join(sorted(names)), "content": content}
    return responses


def _errors(operation: Operation) -> tuple[type[ConfigRollbackError], ...]:
    found = (*operation.errors, *EVERY)
    if operation.caller == "ops":
        found += PEOPLE
    elif operation.caller != "anyone":
        found += MACHINES
    if operation.is_act:
        found += ACTS
    return found + (BODIES if operation.body is not None else ())


def _schema(schemas: dict[str, Any], kind: Any, mode: Any = "serialization") -> dict[str, Any]:
    """The schema of a type; what it consists of goes into `schemas`."""
    schema = TypeAdapter(kind).json_schema(ref_template=REF, mode=mode)
    schemas |= schema.pop("$defs", {})
    return schema
