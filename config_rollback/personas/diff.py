"""What differs between two configurations, of whatever shape, in a form that people can read."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind = Literal["same", "removed", "added"]

MAX_VALUE_LENGTH = 60
"""A text that is longer, or has lines, reads better word by word than as a value that replaces another."""


_Run: TypeAlias = "tuple[int, int, _Run | None]"


@dataclass(frozen=True)
class Change:
    """A field that differs, named by its path; a side is None if the field is absent or null there."""

    field: str
    before: Any
    after: Any
    kind: Literal["changed", "removed", "added"] = "changed"

    @property
    def sides(self) -> list[tuple[Kind, Any]]:
        """The values there are, of before and after."""
        both: list[tuple[Kind, Any]] = [("removed", self.before), ("added", self.after)]
        return [side for side in both if self.kind in ("changed", side[0])]

    @property
    def prose(self) -> bool:
        """Whether `pieces` are a text to be read on, rather than values beside each other."""
        texts = [side for side in (self.before, self.after) if isinstance(side, str)]
        return len(texts) == 2 and any(len(text) > MAX_VALUE_LENGTH or "\n" in text for text in texts)

    def pieces(self) -> list[Piece]:
        """The change of the field: words of a longer text, entries of a list, or one value for another."""
        if self.prose:
            return words(self.before, self.after)
        if isinstance(self.before, list) and isinstance(self.after, list):
            return items(self.before, self.after)
        return [Piece(kind, spelled(value)) for kind, value in self.sides]


@dataclass(frozen=True)
class Piece:
    """A run of text that is the same on both sides, or only on one."""

    kind: Kind
    text: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the order of `before`; new fields come last."""
    return list(_changes(before, after, ""))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterable[Change]:
    for field in [*before, *(field for field in after if field not in before)]:
        left, right, name = before.get(field), after.get(field), f"{path}{field}"
        if field not in after:
            yield Change(name, left, None, "removed")
        elif field not in before:
            yield Change(name, None, right, "added")
        elif _same(left, right):
            continue
        elif isinstance(left, dict) and isinstance(right, dict):
            yield from _changes(left, right, f"{name}.")
        elif isinstance(left, list) and isinstance(right, list) and _are_records(left, right):
            yield from _changes(_numbered(left), _numbered(right), f"{name}.")
        else:
            yield Change(name, left, right)


def _same(left: Any, right: Any) -> bool:
    """As JSON: 1 and 1.0 are one number, but neither is true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _are_records(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether lists read best entry by entry, such as the messages of a prompt."""
    return len(left) == len(right) and all(isinstance(entry, dict) for entry in (*left, *right))


def _numbered(entries: Sequence[Any]) -> dict[str, Any]:
    return {str(number): entry for number, entry in enumerate(entries)}


def spelled(value: Any) -> str:
    """The value as JSON; text without quotes if it cannot be mistaken for something else."""
    if isinstance(value, str) and value == value.strip() and not _reads_as_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _reads_as_json(text: str) -> bool:
    if not text or text[0] in '"[{':
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def words(before: str, after: str) -> list[Piece]:
    """The texts word by word, white space kept: without the added pieces they are `before`, to the letter."""
    pieces: list[Piece] = []
    # Lines first: a long text then costs only as much as what was rewritten in it.
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for removed, added, same in _aligned(*lines):
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
    """The entries of a list in the order of `before`, each with its change; then the new entries.

    Where entries that both have come in another order or number, both lists as a whole.
    """
    old, new = [spelled(item) for item in before], [spelled(item) for item in after]
    known, kept = set(old), set(new)
    if [item for item in old if item in kept] != [item for item in new if item in known] or known == kept:
        return [Piece("removed", ", ".join(old)), Piece("added", ", ".join(new))]
    pieces = [Piece("same" if item in kept else "removed", item) for item in old]
    return pieces + [Piece("added", item) for item in new if item not in known]


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s+|\S+", text)


def _aligned(left: list[str], right: list[str]) -> Iterable[tuple[list[str], list[str], bool]]:
    """Runs of both sides in order, each with whether they are the same."""
    start = there_start = at = there_at = 0
    for place, there_place in _equal(left, right):
        if (place, there_place) != (at, there_at):
            if start < at:
                yield left[start:at], right[there_start:there_at], True
            yield left[at:place], right[there_at:there_place], False
            start, there_start = place, there_place
        at, there_at = place + 1, there_place + 1
    if start < len(left):
        yield left[start:], right[there_start:], True


def _equal(left: list[str], right: list[str]) -> Iterable[tuple[int, int]]:
    """Places of entries to be shown as the same, in order; at last the place after both sides.

    That is what occurs once on each side, in the longest common order, and what is equal next to it: the
    first round of Bram Cohen's patience diff. The time grows as n log n, whatever the texts.
    """
    at = there_at = 0
    for end, there_end in [*_anchors(left, right), (len(left), len(right))]:
        while at < end and there_at < there_end and left[at] == right[there_at]:
            yield at, there_at
            at, there_at = at + 1, there_at + 1
        tail = 0
        while (
            tail < min(end - at, there_end - there_at) and left[end - tail - 1] == right[there_end - tail - 1]
        ):
            tail += 1
        yield from ((end - back, there_end - back) for back in range(tail, -1, -1))
        at, there_at = end + 1, there_end + 1


def _anchors(left: list[str], right: list[str]) -> list[tuple[int, int]]:
    """Places of what occurs once on each side: the most that come in the same order."""
    counts, there_counts = Counter(left), Counter(right)
    places = {entry: place for place, entry in enumerate(right) if there_counts[entry] == 1}
    ends: list[int] = []  # of the runs of each length, the one that ends first
    runs: list[_Run] = []
    for place, entry in enumerate(left):
        if counts[entry] == 1 and entry in places:
            length = bisect_left(ends, places[entry])
            run = (place, places[entry], runs[length - 1] if length else None)
            ends[length : length + 1] = [places[entry]]
            runs[length : length + 1] = [run]
    anchors: list[tuple[int, int]] = []
    last = runs[-1] if runs else None
    while last is not None:
        anchors.append(last[:2])
        last = last[2]
    return anchors[::-1]


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
