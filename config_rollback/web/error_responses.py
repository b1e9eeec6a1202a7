"""The answer to a request that was refused: counted, and JSON in the shape of the contract."""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import Response

from config_rollback.errors import AuthenticationError, ConfigRollbackError, OverloadedError
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import error_json, request_id


def count(request: Request, error: ConfigRollbackError) -> None:
    """Counts what nobody authenticated or what is over a bound; the request's log line names the error."""
    if isinstance(error, AuthenticationError):
        dependencies(request).metrics.authentication_failures.labels(error.code).inc()
        structlog.contextvars.bind_contextvars(error=error.code, reason=error.reason)
    if isinstance(error, OverloadedError):
        dependencies(request).metrics.refused(error)


def error_response(request: Request, error: ConfigRollbackError) -> Response:
    """The answer of the API."""
    count(request, error)
    return error_json(error, request_id(request))
