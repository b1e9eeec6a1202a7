"""What differs between two configurations, in a form that people can read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["same", "removed", "added"]

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
    """The texts word by word, white space kept: the pieces but the added ones make up `before` again."""
    left, right = _split(before), _split(after)
    pieces: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for operation, left_start, left_end, right_start, right_end in matcher.get_opcodes():
        if operation == "equal":
            pieces.append(Piece("same", "".join(left[left_start:left_end])))
            continue
        if left_end > left_start:
            pieces.append(Piece("removed", "".join(left[left_start:left_end])))
        if right_end > right_start:
            pieces.append(Piece("added", "".join(right[right_start:right_end])))
    return pieces


def items(before: list[Any], after: list[Any]) -> list[Piece]:
    """The entries of a list in the order of `before`, each with what becomes of it; then the new ones."""
    pieces = [Piece("same" if item in after else "removed", str(item)) for item in before]
    return pieces + [Piece("added", str(item)) for item in after if item not in before]


def _split(text: str) -> list[str]:
    return re.findall(r"\s+|[^\s]+", text)
