"""What differs between two configurations, of whatever shape, in a form that people can read."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

Kind = Literal["same", "removed", "added"]

MAX_VALUE_LENGTH = 60
"""A text that is longer, or has lines, reads better word by word than as a value that replaces another."""
MAX_MATCHES = 100_000
"""Texts with more pairs of equal words than this are shown as replaced: comparing them takes cubic time."""
MAX_STEPS = 2_000_000
"""How many lines, words and pairs of equal ones are looked at for one page, about half a second's work."""


class Effort:
    """What may still be spent on comparing; what is left to compare then is shown as replaced."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> bool:
        """Takes them off, if there are so many left."""
        enough = steps <= self.left
        self.left -= steps if enough else 0
        return enough


@dataclass(frozen=True)
class Change:
    """A field that differs, a nested one by its path; None on a side where it is absent, or null."""

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

    def pieces(self, effort: Effort) -> list[Piece]:
        """What becomes of the field: words of a longer text, entries of a list, or one value for another."""
        if self.prose:
            return words(self.before, self.after, effort)
        if isinstance(self.before, list) and isinstance(self.after, list):
            return items(self.before, self.after)
        return [Piece(kind, spelled(value)) for kind, value in self.sides]


@dataclass(frozen=True)
class Piece:
    """A run of text that is the same on both sides, or only on one."""

    kind: Kind
    text: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the order of `before`, then those that are new."""
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
    """JSON, but a text without its quotes where it cannot be taken for something else."""
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


def words(before: str, after: str, effort: Effort) -> list[Piece]:
    """The texts word by word, white space kept: without the added pieces they are `before`, to the letter."""
    pieces: list[Piece] = []
    # Lines first: a long text then costs only as much as what was rewritten in it.
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for removed, added, same in _aligned(*lines, effort):
        if same:
            pieces.append(Piece("same", "".join(removed)))
            continue
        for left, right, equal in _aligned(_tokens("".join(removed)), _tokens("".join(added)), effort):
            if equal:
                pieces.append(Piece("same", "".join(left)))
            else:
                pieces += [Piece("removed", "".join(left)), Piece("added", "".join(right))]
    return _joined(pieces)


def items(before: Sequence[Any], after: Sequence[Any]) -> list[Piece]:
    """The entries of a list in the order of `before`, each with what becomes of it; then the new ones.

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


def _aligned(
    left: list[str], right: list[str], effort: Effort
) -> Iterable[tuple[list[str], list[str], bool]]:
    """Runs of both sides in order, each with whether they are the same."""
    there = Counter(right)
    # What it takes to look for a match of left[i:j] is costs[j] - costs[i].
    costs = list(accumulate((1 + there[token] for token in left), initial=0))
    if costs[-1] - len(left) > MAX_MATCHES or costs[-1] > effort.left:
        start = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
        tails = zip(reversed(left[start:]), reversed(right[start:]), strict=False)
        end = next((i for i, (a, b) in enumerate(tails) if a != b), 0)
        middle = slice(start, -end or None)
        yield left[:start], right[:start], True
        yield left[middle], right[middle], False
        yield left[len(left) - end :], right[len(right) - end :], True
        return
    at = there_at = 0
    for match in [*_matches(left, right, costs, effort), difflib.Match(len(left), len(right), 0)]:
        end, there_end = match.a + match.size, match.b + match.size
        if at < match.a or there_at < match.b:
            yield left[at : match.a], right[there_at : match.b], False
        if match.size:
            yield left[match.a : end], right[match.b : there_end], True
        at, there_at = end, there_end


def _matches(left: list[str], right: list[str], costs: list[int], effort: Effort) -> list[difflib.Match]:
    """As `SequenceMatcher.get_matching_blocks` finds them, until the effort is spent."""
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    matches: list[difflib.Match] = []
    ranges = [(0, len(left), 0, len(right))]
    while ranges:
        start, end, there_start, there_end = ranges.pop()
        if there_start == there_end or not effort.spend(costs[end] - costs[start]):
            continue
        match = matcher.find_longest_match(start, end, there_start, there_end)
        if match.size:
            matches.append(match)
            ranges.append((match.a + match.size, end, match.b + match.size, there_end))
            ranges.append((start, match.a, there_start, match.b))
    return sorted(matches)


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
