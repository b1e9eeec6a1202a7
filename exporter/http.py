"""What calls have in common: a request id, a bearer token, a bounded JSON body, one shape of answers."""

import asyncio
import hmac
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.errors import (
    BodyIncompleteError,
    BodyTooLargeError,
    InvalidRequestError,
    TokenInvalidError,
    UnauthenticatedError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
)

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
        request_id = _own_or_new(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _own_or_new(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex


def success(request: Request, data: Mapping[str, Any]) -> JSONResponse:
    """`{data, request_id}` with status 200."""
    return JSONResponse({"data": data, "request_id": request.state.request_id})


def failure(
    request: Request,
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """`{error: {code, message, details}, request_id}`."""
    error = {"code": code, "message": message, "details": details}
    return JSONResponse({"error": error, "request_id": request.state.request_id}, status, headers)


def authenticate(request: Request, tokens: Sequence[SecretStr]) -> None:
    """Check the bearer token (RFC 6750). Raises UnauthenticatedError or TokenInvalidError."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise UnauthenticatedError("Send an ingest token as 'Authorization: Bearer TOKEN'")
    candidate = given.strip().encode("latin-1")
    # Every token is compared, so that the time taken does not tell which one came close.
    matches = [hmac.compare_digest(candidate, token.get_secret_value().encode()) for token in tokens]
    if not any(matches):
        raise TokenInvalidError("The token is none of the ingest tokens")


async def read_json_body(request: Request, max_bytes: int, max_seconds: float) -> bytes:
    """The body, not yet decoded.

    Raises UnsupportedMediaTypeError, UnsupportedEncodingError, InvalidRequestError, BodyTooLargeError or
    BodyIncompleteError.
    """
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError("Send the body as application/json")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncodingError("Send the body uncompressed")
    lengths = headers.getlist("content-length")
    if len(lengths) > 1 or (lengths and "transfer-encoding" in headers):
        raise InvalidRequestError("The length of the body is ambiguous")
    if lengths and int(lengths[0]) > max_bytes:
        raise BodyTooLargeError(f"The body is longer than {max_bytes} bytes")
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(max_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise BodyTooLargeError(f"The body is longer than {max_bytes} bytes")
                chunks.append(chunk)
    except ClientDisconnect:
        raise BodyIncompleteError("The connection ended before the body") from None
    except TimeoutError:
        raise BodyIncompleteError(f"The body did not arrive within {max_seconds} seconds") from None
    return b"".join(chunks)
