"""Parameters of requests: a model says what a route takes; it is parsed and documented from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from starlette.requests import Request

from config_rollback.errors import IdempotencyKeyMissingError, InvalidRequestError
from config_rollback.personas.persona_config import describe
from config_rollback.rollback.lengths import MAX_KEY_LENGTH


class Query(BaseModel):
    """The parameters of a query; this one takes none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise ValueError("must be a whole number of at most nine digits")
    return value


def _without_nul(value: str) -> str:
    if "\0" in value:  # PostgreSQL cannot store it
        raise ValueError("the NUL character is not allowed")
    return value


Whole = Annotated[int, BeforeValidator(_digits)]
Number = Annotated[Whole, Field(ge=1, le=999_999_999)]
"""Of a version or of an audit row."""
Text = Annotated[str, AfterValidator(_without_nul)]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH, pattern="^[ -~]+$")]

NUMBER: TypeAdapter[int] = TypeAdapter(Number)
KEY: TypeAdapter[str] = TypeAdapter(IdempotencyKey)

Model = TypeVar("Model", bound=Query)
Value = TypeVar("Value")


def query_of(request: Request, model: type[Model]) -> Model:
    """The query's parameters. Raises `InvalidRequestError`."""
    return parse(request.query_params.multi_items(), model)


def parse(pairs: Sequence[tuple[str, str]], model: type[Model]) -> Model:
    """The parameters. Raises `InvalidRequestError` for one that is unknown, missing, given twice or wrong."""
    allowed = [field.alias or name for name, field in model.model_fields.items()]
    if any(name not in allowed for name, _ in pairs):
        raise InvalidRequestError("unknown query parameter", allowed=allowed)
    if len(pairs) != len(dict(pairs)):
        raise InvalidRequestError("a query parameter occurs twice")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise _invalid(error) from None


def number_of(text: str, name: str) -> int:
    """A number of the path or of a form. Raises `InvalidRequestError`."""
    return _checked(NUMBER, text, name)


def key_of(request: Request) -> str:
    """The header by which a repetition of an act after a lost answer is known.

    Raises `IdempotencyKeyMissingError` without one.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        raise IdempotencyKeyMissingError("the header Idempotency-Key is required")
    return _checked(KEY, key, "Idempotency-Key")


def _checked(adapter: TypeAdapter[Value], text: str, name: str) -> Value:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise _invalid(error, name) from None


def _invalid(error: ValidationError, *name: str) -> InvalidRequestError:
    found = describe(error, *name)
    return InvalidRequestError(f"{found[0]['field']}: {found[0]['problem']}", errors=found)
