"""Names, shapes and hashes of configurations."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import AfterValidator, TypeAdapter, ValidationError

from config_rollback.errors import InvalidRequestError
from config_rollback.personas.persona_config import (
    canonical_json,
    check_new_persona,
    check_persona,
    content_hash,
    describe,
)

HIDDEN = [
    "a\u200bb",
    "a\u202eb",
    "a\U000e0041",
    "👩\u200d🚀",
    "❤\ufe0f",
    "क्\u200dष",
    "a\xadb",
    "a\u3164",
]


@pytest.mark.parametrize("name", ["concierge", "a b", "a/b", "x" * 128, "...", "консьерж", "🚀"])
def test_names(name: str) -> None:
    assert check_persona(name) == name
    check_new_persona(name)


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a\n", "a\nb", "a\x00b", "a\x7fb", "a\u2028b", "\ud800", ".", "..", "x" * 129]
)
def test_what_is_no_name(name: str) -> None:
    for check in (check_persona, check_new_persona):
        with pytest.raises(InvalidRequestError):
            check(name)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_characters_are_refused_in_a_new_name_alone(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="invisible"):
        check_new_persona(name)
    assert check_persona(name) == name


def test_one_spelling_per_content() -> None:
    assert canonical_json({"b": "ä", "a": [1, 2.5]}) == '{"a":[1,2.5],"b":"\\u00e4"}'
    assert content_hash("{}") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_a_problem_is_in_our_own_words() -> None:
    def refuse(_: str) -> str:
        raise ValueError("cannot be a name")

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Annotated[str, AfterValidator(refuse)]).validate_python("x")
    assert describe(refused.value, "name") == [{"field": "name", "problem": "cannot be a name"}]
