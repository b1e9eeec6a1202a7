"""What differs between two configurations, in a form that people can read."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["same", "removed", "added"]

MAX_MATCHES = 100_000
"""Texts with more pairs of equal words than this are shown as replaced: comparing them takes cubic time."""

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """A field that differs; None on a side where the field does not exist."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Piece:
    """A run of text that is the same on both sides, or only on one."""

    kind: Kind
    text: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the order of `before`, then those that are new."""
    fields = [*before, *(field for field in after if field not in before)]
    return [
        Change(field, before.get(field), after.get(field))
        for field in fields
        if before.get(field, _ABSENT) != after.get(field, _ABSENT)
    ]


def words(before: str, after: str) -> list[Piece]:
    """The texts word by word, white space kept: without the added pieces they are `before`, to the letter."""
    pieces: list[Piece] = []
    # Lines first: a long text then costs only as much as what was rewritten in it.
    for removed, added, same in _aligned(before.splitlines(keepends=True), after.splitlines(keepends=True)):
        if same:
            pieces.append(Piece("same", "".join(removed)))
            continue
        for left, right, equal in _aligned(_tokens("".join(removed)), _tokens("".join(added))):
            if equal:
                pieces.append(Piece("same", "".join(left)))
            else:
                pieces += [Piece("removed", "".join(left)), Piece("added", "".join(right))]
    return _joined(pieces)


def items(before: Sequence[Any], after: Sequence[Any]) -> list[Piece]:
    """The entries of a list in the order of `before`, each with what becomes of it; then the new ones."""
    pieces = [Piece("same" if item in after else "removed", str(item)) for item in before]
    return pieces + [Piece("added", str(item)) for item in after if item not in before]


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s+|\S+", text)


def _aligned(left: list[str], right: list[str]) -> Iterable[tuple[list[str], list[str], bool]]:
    """Runs of both sides in order, each with whether they are the same."""
    there = Counter(right)
    if sum(count * there[token] for token, count in Counter(left).items()) > MAX_MATCHES:
        start = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
        tails = zip(reversed(left[start:]), reversed(right[start:]), strict=False)
        end = next((i for i, (a, b) in enumerate(tails) if a != b), 0)
        middle = slice(start, -end or None)
        yield left[:start], right[:start], True
        yield left[middle], right[middle], False
        yield left[len(left) - end :], right[len(right) - end :], True
        return
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for operation, left_start, left_end, right_start, right_end in matcher.get_opcodes():
        yield left[left_start:left_end], right[right_start:right_end], operation == "equal"


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """One removed and one added piece per place: white space that two rewritten words share joins them."""
    result: list[Piece] = []
    removed, added, space = "", "", ""
    for piece in pieces:
        if piece.kind == "same" and piece.text.isspace() and (removed or added) and not space:
            space = piece.text
        elif piece.kind == "same":
            result += [Piece("removed", removed), Piece("added", added), Piece("same", space + piece.text)]
            removed = added = space = ""
        else:
            removed, added, space = removed + space, added + space, ""
            if piece.kind == "removed":
                removed += piece.text
            else:
                added += piece.text
    result += [Piece("removed", removed), Piece("added", added), Piece("same", space)]
    return [piece for piece in result if piece.text]
