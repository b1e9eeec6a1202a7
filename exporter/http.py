"""What calls have in common: a request id, a bearer token, a bounded JSON body, one shape of answers.

What a push needs works on the plain ASGI scope: Starlette's Request and Response cost more than the counting.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.errors import (
    BodyIncompleteError,
    BodyTooLargeError,
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
    return secrets.token_hex(16)


def head_of(scope: Scope) -> Head:
    """The headers of a request."""
    return dict(reversed(scope["headers"]))


def success(request: Request, data: Mapping[str, Any]) -> JSONResponse:
    """`{data, request_id}` with status 200."""
    return JSONResponse({"data": data, "request_id": request.state.request_id})


async def send_success(scope: Scope, send: Send, data: Mapping[str, Any]) -> None:
    """The same, sent at once."""
    body = msgspec.json.encode({"data": data, "request_id": scope["state"]["request_id"]})
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


async def read_json_body(head: Head, receive: Receive, max_bytes: int, max_seconds: float) -> bytes:
    """The body, not yet decoded. That its length is not ambiguous has been seen to by the protocol.

    Raises UnsupportedMediaTypeError, UnsupportedEncodingError, BodyTooLargeError or BodyIncompleteError.
    """
    if head.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaTypeError("Send the body as application/json")
    if head.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedEncodingError("Send the body uncompressed")
    if int(head.get(b"content-length", b"0")) > max_bytes:
        raise BodyTooLargeError(f"The body is longer than {max_bytes} bytes")
    try:
        async with asyncio.timeout(max_seconds):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise BodyIncompleteError(f"The body did not arrive within {max_seconds} seconds") from None


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyIncompleteError("The connection ended before the body")
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError(f"The body is longer than {max_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
