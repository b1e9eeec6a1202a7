"""Reading requests and writing answers in the shapes of the contract."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from config_rollback.errors import (
    BodyTooLargeError,
    ConfigRollbackError,
    InvalidJsonError,
    InvalidRequestError,
    NotFoundError,
    RequestTimeoutError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
)
from config_rollback.personas.persona_config import check_persona, describe
from config_rollback.visible import code_point, hidden_in_prose
from exporter.strict import check_json

MAX_BODY_BYTES = 1_048_576
"""Up to this size a body that is too large is read and dropped, so that its sender sees the answer."""
BODY_SECONDS = 10.0
"""How long a body may take to arrive."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")


def new_request_id(given: str | None) -> str:
    """The caller's own id if it is well-formed, else a new one: it goes into logs, audit rows and headers."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def request_id(request: Request) -> str:
    """The id of this request (see `middleware.py`)."""
    found: str = request.scope["driftback.request_id"]
    return found


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work results in; ends it and raises ClientDisconnect as soon as its client is gone."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def success(request: Request, data: Any, *, status: int = 200, **more: Any) -> Response:
    """`{data, …, request_id}`."""
    return json_response({"data": data, **more, "request_id": request_id(request)}, status)


def json_response(content: Any, status: int = 200) -> Response:
    """JSON that no cache keeps."""
    return Response(
        msgspec.json.encode(content),
        status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def error_json(error: ConfigRollbackError, request_id: str) -> Response:
    """`{error: {code, message, details}, request_id}`, with the status and the headers of the error."""
    content = {"code": error.code, "message": error.message, "details": error.details}
    response = json_response({"error": content, "request_id": request_id}, error.status)
    response.headers.update(error.headers)
    return response


def persona_of(request: Request) -> str:
    """The persona in the path; a percent-encoded slash belongs to the name (paths are matched undecoded)."""
    try:
        return new_persona_of(request)
    except InvalidRequestError:
        raise NotFoundError("there is no such persona") from None


def new_persona_of(request: Request) -> str:
    """The same for a persona that may not exist yet; raises `InvalidRequestError` for an invalid name."""
    try:
        return check_persona(unquote(request.path_params["persona"], errors="strict"))
    except UnicodeDecodeError:
        raise InvalidRequestError("a persona's name must be UTF-8") from None


async def read_json(request: Request, model: type[Model]) -> Model:
    """The body as `model`; raises a `RequestError`."""
    _require_media_type(request, "application/json")
    body = await _read_body(request)
    try:
        check_json(body)
        content = msgspec.json.decode(body)
    except ValueError as error:
        where = str(error).rpartition(" at ")[2]  # without the repeated key, which may be anything
        raise InvalidJsonError(f"the body is not JSON, or has a key twice, at {where}") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidRequestError("the body is not valid", errors=describe(error)) from None


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a submitted form, each given once; raises a `RequestError`."""
    _require_media_type(request, "application/x-www-form-urlencoded")
    body = await _read_body(request)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise InvalidRequestError("the form is not valid") from None
    if len(pairs) != len(dict(pairs)):
        raise InvalidRequestError("a form field occurs twice")
    return dict(pairs)


def plain_text(value: str, name: str, max_length: int) -> str:
    """Free text that is stored and shown: bounded, and all of it can be seen."""
    if len(value) > max_length:
        raise InvalidRequestError(f"{name} must have at most {max_length} characters")
    if hidden := hidden_in_prose(value):
        raise InvalidRequestError(f"{name} contains {code_point(hidden[0])}, which is invisible: remove it")
    return value


def _require_media_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise UnsupportedMediaTypeError(f"the body must be {wanted}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncodingError("the body must not be compressed")


async def _read_body(request: Request) -> bytes:
    """The body. The server refuses one that is much longer than MAX_BODY_BYTES."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.body()
    except TimeoutError:
        raise RequestTimeoutError(f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"the body must have at most {MAX_BODY_BYTES} bytes")
    return body
