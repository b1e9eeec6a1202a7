"""Persona files: what is shown is published as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config_rollback.visible import visible
from driftback_server.cli.documents import Document, read, written

AWKWARD = (
    *("no", "1:30", "0300", "1e3", "0o7", ".5", "+1", "1_0", "~", "null", "true", "=", "<<", "", " a", "a "),
    *("- a", "# x", "a: b", "a\x85b", "\u2028", "\ufeffa", "\u200b", "\U000e0041", "👩\u200d🚀", "<U+200B>"),
    *("a\n", "\n\na", "a\n\n b", "\ta", "'", '"', "\\", "---", "...", "%a", "@a", "`a", "\x1b[2K", "\r\n"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(AWKWARD)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, TEXT, st.dictionaries(TEXT, VALUES, max_size=4))
def test_a_document_that_is_written_is_read_as_it_was(
    tmp_path: Path, persona: str, note: str, config: dict[str, object]
) -> None:
    document = Document.model_validate({"persona": persona, "note": note, "config": config})
    text = written(document)
    assert visible(text).replace("<U+003C>", "<") == text, "all of it can be seen"
    file = tmp_path / "persona.yaml"
    file.write_text(text, encoding="utf-8")
    again = read(file)
    assert (again.persona, again.note) == (persona, note)
    assert json.dumps(again.config) == json.dumps(config), "1 is not 1.0, nor true"


def test_what_nobody_sees_is_written_as_an_escape() -> None:
    text = written(Document(persona="p", config={"topics": ["é", "a\u200bb", "\U000e0041", "\x85"]}))
    assert text == (
        'persona: p\nnote: \'\'\nconfig:\n  topics:\n  - é\n  - "a\\u200Bb"\n  - "\\U000E0041"\n  - "\\N"\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("persona: p\nconfig: {a: 1, a: 2}", "line 2, column 16: the key 'a' occurs twice"),
        ("persona: a\nconfig: {}\npersona: b", "line 3, column 1: the key 'persona' occurs twice"),
        ("persona: p\nconfig: {a: 1e999}", "1e999 is larger than any number that can be kept"),
        ("- a", "must contain `persona`, `config` and, optionally, `note`"),
        ("persona: p\nconfig: " + "[" * 3000 + "]" * 3000, "it is nested too deeply"),
    ],
    ids=lambda value: str(value[:40]),
)
def test_a_file_that_is_no_document_is_named_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "persona.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its message is checked)
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
