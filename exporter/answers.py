"""What calls have in common: a request id, a bearer token, a JSON body, one shape of answers."""

import hmac
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from exporter import errors
from exporter.errors import (
    ExporterError,
    TokenInvalidError,
    UnauthenticatedError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
)
from exporter.http.exchange import Header, Reply

STATUS_AND_CODE: dict[type[ExporterError], tuple[int, str]] = {
    errors.InvalidHttpError: (400, "invalid_http"),
    errors.InvalidJsonError: (400, "invalid_json"),
    errors.IdempotencyKeyMissingError: (400, "idempotency_key_missing"),
    errors.UnauthenticatedError: (401, "unauthenticated"),
    errors.TokenInvalidError: (401, "token_invalid"),
    errors.NotFoundError: (404, "not_found"),
    errors.MethodNotAllowedError: (405, "method_not_allowed"),
    errors.BodyIncompleteError: (408, "body_incomplete"),
    errors.BodyTooLargeError: (413, "body_too_large"),
    errors.UnsupportedMediaTypeError: (415, "unsupported_media_type"),
    errors.UnsupportedEncodingError: (415, "unsupported_encoding"),
    errors.InvalidRequestError: (422, "invalid_request"),
    errors.LabelNotAllowedError: (422, "label_not_allowed"),
    errors.IdempotencyKeyReusedError: (422, "idempotency_key_reused"),
    errors.TooManyConnectionsError: (429, "too_many_connections"),
    errors.TooManyPipelinedError: (429, "too_many_pipelined"),
    errors.TooManyScrapesError: (429, "too_many_scrapes"),
    errors.StorageBusyError: (503, "storage_busy"),
    errors.StorageFullError: (503, "storage_full"),
    errors.StorageLostError: (503, "storage_lost"),
    errors.StorageFailedError: (503, "storage_failed"),
}
"""Every error that a call is refused with on purpose."""

RETRY_AFTER_SECONDS = b"1"

Head = Mapping[bytes, bytes]
"""The headers of a request by name in small letters; if one occurs twice, the first one counts."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JSON = (b"content-type", b"application/json")

_log = structlog.get_logger("exporter.answers")


def request_id_of(head: Head) -> str:
    """The caller's own request id where it is harmless, else a new one."""
    text = head.get(b"x-request-id", b"").decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"


def success(request_id: str, data: Mapping[str, Any]) -> Reply:
    """`{data, request_id}` with status 200."""
    return _reply(200, request_id, {"data": data, "request_id": request_id})


def refusal(request_id: str, error: Exception) -> Reply:
    """`{error: {code, message, details}, request_id}`; anything but an ExporterError is a defect."""
    if not isinstance(error, ExporterError):
        _log.error("internal_error", request_id=request_id, exc_info=error)
        status, code = 500, "internal_error"
        error = ExporterError("The exporter failed; its log has this request_id")
    else:
        status, code = STATUS_AND_CODE[type(error)]
    headers: list[Header] = []
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        headers.append((b"retry-after", RETRY_AFTER_SECONDS))
    if isinstance(error, errors.MethodNotAllowedError):
        headers.append((b"allow", error.allowed.encode()))
    content = {"code": code, "message": error.message, "details": error.details}
    return _reply(status, request_id, {"error": content, "request_id": request_id}, headers)


def _reply(status: int, request_id: str, content: Mapping[str, Any], headers: Sequence[Header] = ()) -> Reply:
    own = [_JSON, (b"x-request-id", request_id.encode())]
    return Reply(status, [*own, *headers], msgspec.json.encode(content))


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
