"""Differences that people can read."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_rollback.diff import Change, Piece, changes, items, spelled, words
from config_rollback.pages.render import shortened
from config_rollback.persona_config import canonical_json


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


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["a", "b"], ["c", "a"], [added("c"), same("a"), removed("b")]),
        (["a", "b"], ["b", "a"], [added("b"), same("a"), removed("b")]),
        (["a", "a"], ["a"], [same("a"), removed("a")]),
        (
            [1, "1", None, True],
            [1, 1, False],
            [same("1"), *map(removed, ('"1"', "null", "true")), *map(added, ("1", "false"))],
        ),
        ([{"n": 1}], [{"n": 1}, []], [same('{"n": 1}'), added("[]")]),
    ],
    ids=["an order", "another order", "one of two", "types", "objects"],
)
def test_items_say_what_becomes_of_each(before: list[object], after: list[object], expected: object) -> None:
    assert items(before, after) == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(-2, 2, width=16)
    | st.text("a1 \n", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(before=OBJECT, after=OBJECT)
def test_nothing_that_changes_the_hash_goes_unseen(
    before: dict[str, object], after: dict[str, object]
) -> None:
    found = changes(before, after)
    assert bool(found) == (canonical_json(before) != canonical_json(after))
    assert all({piece.kind for piece in change.pieces} - {"same"} for change in found)


@given(before=st.lists(JSON, max_size=5), after=st.lists(JSON, max_size=5))
def test_both_lists_can_be_read_off_the_items(before: list[object], after: list[object]) -> None:
    pieces = items(before, after)
    assert [piece.text for piece in pieces if piece.kind != "added"] == [spelled(item) for item in before]
    assert [piece.text for piece in pieces if piece.kind != "removed"] == [spelled(item) for item in after]


@given(left=JSON, right=JSON)
def test_what_is_spelled_alike_is_the_same(left: object, right: object) -> None:
    assert (spelled(left) == spelled(right)) == (
        json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    )


def test_objects_are_gone_into_and_every_change_has_its_path() -> None:
    before = {"limits": {"tokens": 1, "off": None}, "shots": [{"q": "a", "a": "b"}], "tags": ["x"], "old": {}}
    after = {
        "limits": {"tokens": 2},
        "shots": [{"q": "a", "a": "c"}],
        "tags": ["x", "y"],
        "new": {"on": True},
    }
    assert changes(before, after) == [
        Change("limits.tokens", 1, 2),
        Change("limits.off", None, None, "removed"),
        Change("shots[0].a", "b", "c"),
        Change("tags", ["x"], ["x", "y"]),
        Change("old", {}, None, "removed"),
        Change("new", None, {"on": True}, "added"),
    ]


def test_a_configuration_that_nests_deeply_is_compared() -> None:
    def nested(leaf: int) -> dict[str, object]:
        config: dict[str, object] = {"leaf": leaf}
        for _ in range(400):
            config = {"in": config}
        return config

    (change,) = changes(nested(1), nested(2))
    assert change.field == "in.in.in.in.in.in.in.in"
    assert [piece.kind for piece in change.pieces] == ["removed", "added"]


@pytest.mark.parametrize(("before", "after"), [(True, 1), (0, False), (1, 1.0), (1, "1"), ([True], [1])])
def test_types_that_python_calls_equal_differ(before: object, after: object) -> None:
    (change,) = changes({"a": before}, {"a": after})
    assert [piece.kind for piece in change.pieces] == ["removed", "added"]
    assert change.pieces[0].text != change.pieces[1].text


def test_a_field_that_is_null_differs_from_one_that_is_not_there() -> None:
    assert changes({"a": None}, {})[0].pieces == [removed("null")]
    assert changes({}, {"a": None})[0].pieces == [added("null")]
    assert changes({"a": None}, {"a": ""})[0].pieces == [removed("null"), added('""')]


def test_only_fields_that_differ_are_named() -> None:
    before = {"a": 1, "b": 2, "gone": None}
    after = {"a": 1, "b": 3, "new": [1]}
    assert changes(before, after) == [
        Change("b", 2, 3),
        Change("gone", None, None, "removed"),
        Change("new", None, [1], "added"),
    ]


def test_long_unchanged_text_is_cut_to_what_surrounds_a_change() -> None:
    pieces = [same("x" * 1000), removed("no"), same("y" * 1000), added("yes"), same("z" * 1000), same("end")]
    cut = shortened(pieces)
    assert cut[0].text == " […] " + "x" * 160
    assert cut[2].text == "y" * 160 + " […] " + "y" * 160
    assert cut[1] == removed("no")
    assert cut[-1] == same("end")
