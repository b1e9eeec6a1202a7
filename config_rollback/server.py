"""The exporter's strict HTTP protocol, with refusals in this service's shape."""

from __future__ import annotations

import json
import uuid
from http import HTTPStatus
from typing import Any

from config_rollback import errors
from config_rollback.web.dependencies import Dependencies
from exporter.errors import ExporterError, TooManyConnectionsError, TooManyPipelinedError
from exporter.protocol import StrictHttpProtocol

_OURS: dict[type[ExporterError], type[errors.ConfigRollbackError]] = {
    TooManyConnectionsError: errors.TooManyConnectionsError,
    TooManyPipelinedError: errors.TooManyPipelinedError,
}


class Protocol(StrictHttpProtocol):
    """One connection."""

    def __init__(self, deps: Dependencies, **uvicorns_own: Any) -> None:
        super().__init__(deps.settings.max_connections, **uvicorns_own)
        self._metrics = deps.metrics

    def count_evicted(self) -> None:
        """Count a connection that was closed to make room for this one."""
        self._metrics.connections_evicted.inc()

    def send_refusal(self, error: ExporterError) -> None:
        """What is not HTTP (a double Content-Length, a bare line break, no Host), or one too many."""
        ours = _OURS.get(type(error), errors.InvalidRequestError)(error.message)
        self._metrics.refused(ours)
        malformed = isinstance(ours, errors.InvalidRequestError)
        status = HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.TOO_MANY_REQUESTS
        request_id = uuid.uuid4().hex
        content = {"code": ours.code, "message": ours.message, "details": {}}
        body = json.dumps({"error": content, "request_id": request_id})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            *([] if malformed else ["retry-after: 1"]),
            "connection: close",
        )
        self.transport.write("\r\n".join((*head, "", body)).encode())
        self.transport.close()
