"""What a configuration is, which names a persona may have, and the canonical spelling that is hashed."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from config_rollback.errors import InvalidRequestError
from config_rollback.visible import code_point, is_hidden

MAX_PERSONA_LENGTH = 128

Topic = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PersonaConfig(BaseModel):
    """The default shape of a configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = Field(min_length=1, max_length=200)
    system_prompt: str = Field(max_length=100_000)
    allowed_topics: list[Topic] = Field(max_length=1000)
    temperature: float = Field(ge=0, le=2)
    max_output_tokens: int = Field(ge=1, le=10_000_000)
    timeout_ms: int = Field(ge=1, le=3_600_000)


def validate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, checked and complete; raises `InvalidRequestError` naming the fields."""
    try:
        return PersonaConfig.model_validate(config).model_dump()
    except ValidationError as error:
        raise InvalidRequestError(
            "the configuration is not valid", errors=describe(error, "config")
        ) from None


def check_persona(name: str) -> str:
    """The name, if a persona may have it; raises `InvalidRequestError`.

    Almost any text will do, for names are other people's. Not: control characters, space at the ends, and `.`
    and `..`, which URL libraries resolve away. Personas of earlier releases have hidden characters.
    """
    if not 1 <= len(name) <= MAX_PERSONA_LENGTH:
        raise InvalidRequestError(f"a persona's name must have 1 to {MAX_PERSONA_LENGTH} characters")
    if name != name.strip() or name in (".", ".."):
        raise InvalidRequestError(
            "a persona's name must not begin or end with a space, and must not be . or .."
        )
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise InvalidRequestError("a persona's name must not contain control characters or line breaks")
    return name


def check_new_persona(name: str) -> None:
    """Raises `InvalidRequestError` for what only personas of earlier releases may be called.

    That is a name with characters that nobody sees, by which two names would look alike.
    """
    check_persona(name)
    if hidden := [character for character in name if is_hidden(character)]:
        raise InvalidRequestError(
            f"a persona's name holds {code_point(hidden[0])}, which is invisible: leave it out"
        )


def canonical_json(config: Mapping[str, Any]) -> str:
    """One spelling per content: sorted keys, no spaces, non-ASCII escaped."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(canonical: str) -> str:
    """SHA-256 of a canonical spelling, hexadecimal."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def describe(error: ValidationError, *prefix: str) -> list[dict[str, str]]:
    """The problem of each field, without the values, which may be secret or huge."""
    return [
        {
            "field": ".".join(str(part) for part in (*prefix, *problem["loc"])),
            "problem": problem["msg"].removeprefix("Value error, "),
        }
        for problem in error.errors(include_input=False, include_url=False)
    ]
