"""What differs between two configurations, in a form that people can read.

Configurations are JSON of any shape. Nothing that changes their hash goes unseen: not the order of a list,
not a type (`1` and `"1"`, `true` and `1`), not a null that came or went.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["same", "removed", "added"]

MAX_MATCHES = 100_000
"""Texts with more pairs of equal words than this are shown as replaced: comparing them takes cubic time."""
MAX_DEPTH = 8
"""Objects nested deeper are compared as a whole."""
MAX_VALUE_LENGTH = 60
"""A text that is longer, or has lines, reads better word by word than as a value that replaces another."""

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """A field that differs, by its path (`limits.tokens`, `examples[0].text`); None where a side lacks it."""

    field: str
    before: Any
    after: Any
    kind: Literal["changed", "removed", "added"] = "changed"

    @property
    def prose(self) -> bool:
        """Whether `pieces` are text to be read on, rather than values beside each other."""
        texts = [side for side in (self.before, self.after) if isinstance(side, str)]
        return len(texts) == 2 and any(len(text) > MAX_VALUE_LENGTH or "\n" in text for text in texts)

    @property
    def pieces(self) -> list[Piece]:
        """What becomes of the field: words of a longer text, entries of a list, or one value for another."""
        if self.prose:
            return words(self.before, self.after)
        if isinstance(self.before, list) and isinstance(self.after, list):
            return items(self.before, self.after)
        left = [] if self.kind == "added" else [Piece("removed", spelled(self.before))]
        right = [] if self.kind == "removed" else [Piece("added", spelled(self.after))]
        return left + right


@dataclass(frozen=True)
class Piece:
    """A run of text that is the same on both sides, or only on one."""

    kind: Kind
    text: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the order of `before`, then those that are new; objects are gone into."""
    return list(_changes("", before, after, MAX_DEPTH))


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
    """The entries of a list: without the added ones they are `before`, without the removed ones `after`."""
    pieces: list[Piece] = []
    for left, right, same in _aligned([spelled(item) for item in before], [spelled(item) for item in after]):
        if same:
            pieces += [Piece("same", item) for item in left]
        else:
            pieces += [Piece("removed", item) for item in left] + [Piece("added", item) for item in right]
    return pieces


def spelled(value: Any) -> str:
    """JSON, but a text without its quotes, unless it could be taken for something else."""
    if isinstance(value, str) and value == value.strip() and not _reads_as_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _changes(path: str, before: Any, after: Any, depth: int) -> Iterable[Change]:
    for field, left, right in _fields(path, before, after):
        if left is _ABSENT:
            yield Change(field, None, right, "added")
        elif right is _ABSENT:
            yield Change(field, left, None, "removed")
        elif _canonical(left) == _canonical(right):
            continue
        elif depth > 1 and _alike(left, right):
            yield from _changes(field, left, right, depth - 1)
        else:
            yield Change(field, left, right)


def _fields(path: str, before: Any, after: Any) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(before, list):
        for index, (left, right) in enumerate(zip(before, after, strict=True)):
            yield f"{path}[{index}]", left, right
        return
    for name in [*before, *(name for name in after if name not in before)]:
        yield f"{path}.{name}" if path else name, before.get(name, _ABSENT), after.get(name, _ABSENT)


def _alike(left: Any, right: Any) -> bool:
    """Whether two values are compared part by part: objects with content, lists of as many such objects."""
    if isinstance(left, dict) and isinstance(right, dict):
        return bool(left and right)
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return all(isinstance(item, dict) and item for item in [*left, *right])
    return False


def _canonical(value: Any) -> str:
    """Python calls `True`, `1` and `1.0` equal; JSON and the hash of a configuration do not."""
    return json.dumps(value, sort_keys=True)


def _reads_as_json(text: str) -> bool:
    if not text or text[0] in '"[{':
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


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
