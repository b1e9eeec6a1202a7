"""What calls have in common: a request id, a bearer token, a JSON body, one shape of answers."""

import hmac
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.errors import (
    TokenInvalidError,
    UnauthenticatedError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
)

Head = Mapping[bytes, bytes]
"""The headers of a request by name in small letters; of a repeated one the first."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Gives every request an id, the caller's own where harmless, and sends it back as `X-Request-ID`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(dict(reversed(scope["headers"])))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id_of(head: Head) -> str:
    """The caller's own request id where it is harmless, else a new one."""
    text = head.get(b"x-request-id", b"").decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"


def success(request_id: str, data: Mapping[str, Any]) -> JSONResponse:
    """`{data, request_id}` with status 200."""
    return JSONResponse({"data": data, "request_id": request_id})


def failure(
    request_id: str,
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """`{error: {code, message, details}, request_id}`."""
    error = {"code": code, "message": message, "details": details}
    return JSONResponse({"error": error, "request_id": request_id}, status, headers)


def authenticate(head: Head, tokens: Sequence[bytes]) -> None:
    """Check the bearer token (RFC 6750). Raises UnauthenticatedError or TokenInvalidError."""
    scheme, _, given = head.get(b"authorization", b"").partition(b" ")
    candidate = given.strip()
    if scheme.lower() != b"bearer" or not candidate:
        raise UnauthenticatedError("Send an ingest token as 'Authorization: Bearer TOKEN'")
    # Every token is compared, so that the time taken does not tell which one came close.
    matches = [hmac.compare_digest(candidate, token) for token in tokens]
    if not any(matches):
        raise TokenInvalidError("The token is none of the ingest tokens")


def expect_json(head: Head) -> None:
    """Check that the body is declared as plain JSON.

    Raises UnsupportedMediaTypeError or UnsupportedEncodingError.
    """
    if head.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaTypeError("Send the body as application/json")
    if head.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedEncodingError("Send the body uncompressed")
