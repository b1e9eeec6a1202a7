"""What every request passes: an id, a log line, security headers, and the path as it was sent."""

from __future__ import annotations

import time
from urllib.parse import unquote

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config_rollback.errors import ConfigRollbackError, TooManyRequestsError
from config_rollback.web.dependencies import Dependencies
from config_rollback.web.http import error_json, new_request_id
from config_rollback.web.operation import operation_of

log = structlog.get_logger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send `Origin: null` with the forms.
    "Referrer-Policy": "same-origin",
}

RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class RequestContext:
    """The outermost layer. Answers `internal_error` for every exception that was not caught before."""

    def __init__(self, app: ASGIApp, deps: Dependencies) -> None:
        self._app = app
        self._max_requests = deps.settings.max_connections
        self._metrics = deps.metrics
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id(Headers(scope=scope).get("x-request-id"))
        scope["driftback.request_id"] = request_id
        # Routes match the path undecoded, so that `a%2Fb` is one segment; handlers decode it.
        scope["path"] = scope.get("raw_path", scope["path"].encode()).decode("ascii", errors="replace")
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.monotonic(), 0
        self._running += 1

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in RAW_SECURITY_HEADERS if pair[0] not in given]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            # Those of connections that are gone count, too.
            app = self._app if self._running <= self._max_requests else self._refuse(request_id)
            await app(scope, receive, send_with_headers)
        except ClientDisconnect:
            log.info("client_disconnected")  # in the middle of its body, so there is no client to answer
        except Exception:
            log.exception("internal_error")
            if status:
                raise  # the answer has begun: the server ends the connection
            response = error_json(ConfigRollbackError("something went wrong here"), request_id)
            await response(scope, receive, send_with_headers)
        finally:
            self._running -= 1
            operation = operation_of(scope.get("endpoint"))
            if status >= 400 or operation is None or not operation.is_quiet:
                log.info(
                    "request",
                    method=scope["method"],
                    # Without the query, which may contain a login token.
                    path=unquote(scope["path"], errors="replace"),
                    status=status,
                    seconds=round(time.monotonic() - started, 4),
                )

    def _refuse(self, request_id: str) -> Response:
        error = TooManyRequestsError("the service answers too many requests now: try again later")
        self._metrics.refused(error)
        response = error_json(error, request_id)
        response.headers["Connection"] = "close"
        return response
