"""Differences that people can read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_rollback.diff import Change, Piece, changes, items, words
from config_rollback.pages.render import shortened


def same(text: str) -> Piece:
    return Piece("same", text)


def removed(text: str) -> Piece:
    return Piece("removed", text)


def added(text: str) -> Piece:
    return Piece("added", text)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("one", "one", [same("one")]),
        ("", "one", [added("one")]),
        ("one two", "one", [same("one"), removed(" two")]),
        ("be kind now", "be brief now", [same("be "), removed("kind"), added("brief"), same(" now")]),
        ("be very kind", "be so brief", [same("be "), removed("very kind"), added("so brief")]),
        ("a\nb\n", "a\nc\n", [same("a\n"), removed("b"), added("c"), same("\n")]),
    ],
)
def test_words(before: str, after: str, expected: list[Piece]) -> None:
    assert words(before, after) == expected


TEXT = st.text(alphabet="ab \n\t", max_size=60)


@given(before=TEXT, after=TEXT)
def test_both_texts_can_be_read_off_the_pieces(before: str, after: str) -> None:
    pieces = words(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_texts_made_to_be_slow_are_not() -> None:
    started = time.monotonic()
    pieces = words("a\n" * 50_000, "b\na\n" * 25_000)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == "a\n" * 50_000
    assert time.monotonic() - started < 30, "quadratic would take hours"


def test_items_say_what_becomes_of_each() -> None:
    assert items(["a", "b"], ["c", "a"]) == [same("a"), removed("b"), added("c")]


def test_only_fields_that_differ_are_named() -> None:
    before = {"a": 1, "b": 2, "gone": None}
    after = {"a": 1, "b": 3, "new": [1]}
    assert changes(before, after) == [Change("b", 2, 3), Change("gone", None, None), Change("new", None, [1])]


def test_long_unchanged_text_is_cut_to_what_surrounds_a_change() -> None:
    pieces = [same("x" * 1000), removed("no"), same("y" * 1000), added("yes"), same("z" * 1000), same("end")]
    cut = shortened(pieces)
    assert cut[0].text == " […] " + "x" * 160
    assert cut[2].text == "y" * 160 + " […] " + "y" * 160
    assert cut[1] == removed("no")
    assert cut[-1] == same("end")
