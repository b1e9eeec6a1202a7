"""The exporter's strict HTTP protocol, with refusals in this service's shape."""

from __future__ import annotations

import json
import uuid

from exporter.protocol import StrictHttpProtocol


class Protocol(StrictHttpProtocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (it names the parser's rule, not ours)
        """What is not HTTP: a double Content-Length, a bare line break in a header, no Host."""
        request_id = uuid.uuid4().hex
        error = {"code": "invalid_request", "message": "this is not valid HTTP", "details": {}}
        body = json.dumps({"error": error, "request_id": request_id})
        head = (
            "HTTP/1.1 400 Bad Request",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*head, "", body)).encode())
        self.transport.close()
