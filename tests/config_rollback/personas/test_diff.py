"""Differences that people can read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_rollback.personas.diff import Change, Piece, changes, items, words
from config_rollback.web.pages.render import shortened


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


@settings(deadline=None)
@given(before=TEXT, after=TEXT)
def test_both_texts_can_be_read_off_the_pieces(before: str, after: str) -> None:
    pieces = words(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


LINES = [f"{number}\n" for number in range(17_000)]
SLOW = {
    "one line again and again": ("a\n" * 50_000, "b\na\n" * 25_000),
    "every two lines in the other order": (
        "".join(LINES),
        "".join(line for pair in zip(LINES[1::2], LINES[::2], strict=True) for line in pair),
    ),
    "all lines in the other order": ("".join(LINES), "".join(reversed(LINES))),
}


@pytest.mark.parametrize(("before", "after"), SLOW.values(), ids=SLOW)
def test_texts_made_to_be_slow_are_not(before: str, after: str) -> None:
    """Quadratic time would take hours."""
    pieces = words(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_several_places_of_a_text_are_shown_apart() -> None:
    before, after = "a b\nc d\ne f\n", "a x\nc d\ne y\n"
    assert words(before, after) == [
        *(same("a "), removed("b"), added("x"), same("\nc d\n")),
        *(same("e "), removed("f"), added("y"), same("\n")),
    ]


def test_items_say_what_becomes_of_each() -> None:
    assert items(["a", "b"], ["c", "a"]) == [same("a"), removed("b"), added("c")]


def test_only_fields_that_differ_are_named() -> None:
    before = {"a": 1, "b": 2, "gone": None}
    after = {"a": 1, "b": 3, "new": [1]}
    assert changes(before, after) == [
        Change("b", 2, 3),
        Change("gone", None, None, "removed"),
        Change("new", None, [1], "added"),
    ]


def test_nested_fields_are_named_by_their_path() -> None:
    before = {"limits": {"daily": 5, "hourly": {"a": 1}}, "tools": {"x": 1}, "same": {"a": [1, {"b": 2}]}}
    after = {
        "limits": {"daily": 5, "hourly": {"a": 2}, "new": None},
        "tools": 3,
        "same": {"a": [1, {"b": 2}]},
    }
    assert changes(before, after) == [
        Change("limits.hourly.a", 1, 2),
        Change("limits.new", None, None, "added"),
        Change("tools", {"x": 1}, 3),
    ]


def test_the_entries_of_a_prompt_are_compared_one_by_one() -> None:
    before = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}]}
    after = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]}
    assert changes(before, after) == [Change("messages.0.content", "Be kind.", "Be brief.")]


def test_true_is_not_1_but_1_is_1_0() -> None:
    assert changes({"a": True, "b": 1, "c": [0]}, {"a": 1, "b": 1.0, "c": [False]}) == [
        Change("a", True, 1),
        Change("c", [0], [False]),
    ]


def test_a_text_that_could_be_a_number_has_its_quotes() -> None:
    assert changes({"a": "1"}, {"a": 1})[0].pieces() == [removed('"1"'), added("1")]
    assert changes({"a": None}, {"a": ""})[0].pieces() == [removed("null"), added('""')]
    assert changes({"a": None}, {})[0].pieces() == [removed("null")]
    assert items([True, "x"], ["true", "x"]) == [removed("true"), same("x"), added('"true"')]


def test_a_longer_text_and_one_with_lines_are_read_word_by_word() -> None:
    assert [change.prose for change in changes({"a": "b" * 61, "c": "d"}, {"a": "b", "c": "d\n"})] == [
        True,
        True,
    ]
    (short,) = changes({"a": "swift-1"}, {"a": "swift-2"})
    assert not short.prose
    assert short.pieces() == [removed("swift-1"), added("swift-2")]


def test_a_list_in_another_order_is_shown_whole() -> None:
    assert items(["a", "a", "b"], ["a", "c"]) == [removed("a, a, b"), added("a, c")]
    assert items(["a", "x", "b"], ["b", "y", "a"]) == [removed("a, x, b"), added("b, y, a")]
    assert items(["a", "b"], ["b", "a"]) == [removed("a, b"), added("b, a")]
    assert items([1, {"x": None}], [{"x": None}]) == [removed("1"), same('{"x": null}')]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
CONFIG = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@settings(deadline=None)
@given(before=CONFIG, after=CONFIG)
def test_whatever_differs_is_told_and_nothing_else(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = changes(before, after)
    as_json = [json.dumps(_floats(side), sort_keys=True) for side in (before, after)]
    assert bool(found) == (as_json[0] != as_json[1])
    for change in found:
        assert change.kind != "changed" or change.sides[0][1] is not change.sides[1][1]
        assert {piece.kind for piece in change.pieces()} - {"same"}
        shown = [[p.text for p in change.pieces() if p.kind != kind] for kind in ("added", "removed")]
        assert shown[0] != shown[1], "the two sides look alike"
    mirrored = {(c.field, str(c.after), str(c.before)) for c in changes(after, before)}
    assert mirrored == {(c.field, str(c.before), str(c.after)) for c in found}


def _floats(value: Any) -> Any:
    """Numbers in one spelling."""
    if isinstance(value, dict):
        return {name: _floats(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_long_unchanged_text_is_cut_to_what_surrounds_a_change() -> None:
    pieces = [same("x" * 1000), removed("no"), same("y" * 1000), added("yes"), same("z" * 1000), same("end")]
    cut = shortened(pieces)
    assert cut[0].text == " […] " + "x" * 160
    assert cut[2].text == "y" * 160 + " […] " + "y" * 160
    assert cut[1] == removed("no")
    assert cut[-1] == same("end")
