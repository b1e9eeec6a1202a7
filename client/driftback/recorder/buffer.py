"""Counts messages in the caller's thread, without a lock.

Each thread has its own cumulative counts and is their only writer, and a count goes up by one list operation.
The flush thread copies a list in one step (atomic in CPython) and sends the difference to the last copy. So
nothing is ever set back or swapped under a writer, a message is either in a copy or in the next one, and
memory does not grow while the exporter is away. What threads counted that have ended since is added up.

The handler of a signal may come at any line and close the recorder, which waits for the flush thread. So the
main thread, where handlers run, holds nothing here that the flush thread waits for: sets change by one
operation each, and the main thread leaves ended threads to the others.

A thread has a list per label set and outcome that it met, so that one look-up finds it, and it is as long as
what was counted asks for. What did not change is compared and not copied.
"""

import threading
import weakref
from collections.abc import Iterator
from itertools import compress
from operator import ne
from typing import Any, Final, Literal

from driftback.contract import (
    BUCKETS,
    LABEL_SET,
    MAX_LABEL_LENGTH,
    OTHER,
    OUTCOMES,
    REASONS,
    HistogramDelta,
    SeriesDelta,
)

MAX_LABEL_SETS: Final = 1000
"""Label sets that one recorder holds; further ones are counted under persona and config_version `other`."""

MAX_WAYS: Final = 4 * MAX_LABEL_SETS
"""Cells that one thread finds by what the caller says, before it begins anew to note them."""

FEW_THREADS: Final = 64
"""A new thread looks for ended ones when the cells of more are held, and of twice as many as lived then."""

MAX_JOURNEYS: Final = 32

# A cell is a list: the buckets of latency, these, and from the first time to first token on its buckets.
INPUT: Final = BUCKETS
OUTPUT: Final = INPUT + 1
LATENCY_SUM: Final = OUTPUT + 1
TTFT_SUM: Final = LATENCY_SUM + 1
TTFT: Final = TTFT_SUM + 1
_EMPTY: Final = [0] * LATENCY_SUM + [0.0, 0.0]
EMPTY_TTFT: Final = [0] * BUCKETS
_TOKENS: Final[tuple[tuple[Literal["input", "output"], int], ...]] = (("input", INPUT), ("output", OUTPUT))

Cell = list[Any]
Delta = dict[int, Any]
"""What was added to a cell, by position: few positions of many."""
Key = tuple[str, str, str]
CellKey = tuple[Key, str, str]
"""A label set, the outcome, and the reason of an error."""
Way = tuple[str, str, str | int, str, str | None]
"""Labels, outcome and reason as the caller gives them: a version may be a number, a reason be left out."""


class _Life:
    """Ends with its thread, whoever made that: only the thread's `Local` holds it."""


class _ThreadCells:
    """The cells of one thread, and what of them was taken already."""

    def __init__(self, life: _Life) -> None:
        self.life = weakref.ref(life)
        self.cells: dict[CellKey, Cell] = {}
        self.taken: dict[CellKey, Cell] = {}


class Local(threading.local):
    """The current thread's cells."""

    def __init__(self) -> None:
        self.cells: dict[Way, Cell] = {}
        self.life = _Life()
        self.owned: _ThreadCells | None = None


class Buffer:
    """All cells of a recorder. Cells are made by any thread, and taken by one."""

    def __init__(self) -> None:
        self.local = Local()
        self._threads: set[_ThreadCells] = set()
        self._ended: dict[CellKey, Delta] = {}
        """What ended threads counted and nobody took."""
        self._most_threads = FEW_THREADS
        self._folding = threading.Lock()  # held for as long as it takes, so `record` never waits for it
        self._known: set[Key] = set()
        self._undeclared: set[Key] = set()

    def declare(self, journey: str, persona: str, config_version: str | int) -> Key:
        """Make a label set known, so that it is exported at zero. Raises ValueError for bad labels."""
        is_number = isinstance(config_version, int) and not isinstance(config_version, bool)
        version = str(config_version) if is_number or isinstance(config_version, str) else ""
        key = (journey, persona, version)
        for name, label in zip(LABEL_SET, key, strict=True):
            if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL_LENGTH:
                raise ValueError(f"{name} must be a text of 1 to {MAX_LABEL_LENGTH} characters")
            if "\0" in label or (not label.isascii() and any("\ud800" <= c <= "\udfff" for c in label)):
                raise ValueError(f"{name} holds a NUL character or half of a surrogate pair")
        if key not in self._known and len(self._known) >= MAX_LABEL_SETS:
            key = (journey, OTHER, OTHER)
        if key not in self._known:
            if len(self._known) >= MAX_LABEL_SETS + MAX_JOURNEYS:
                raise ValueError("too many journeys")
            self._known.add(key)
            self._undeclared.add(key)
        return key

    def declare_again(self) -> None:
        """Declare all label sets anew: the exporter does not know them any more."""
        self._undeclared.update(self._known)

    def make_cell(self, way: Way) -> None:
        """Make a cell for the current thread, which finds it in `local.cells`. Raises ValueError."""
        journey, persona, config_version, outcome, reason = way
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be {', '.join(OUTCOMES)}, and not {outcome!r}")
        if reason is not None and outcome != "llm_error":
            raise ValueError(f"reason is for the outcome llm_error, and the outcome is {outcome}")
        if reason is not None and reason not in REASONS:
            raise ValueError(f"reason must be one of {', '.join(REASONS)}, and not {reason!r}")
        key = self.declare(journey, persona, config_version)
        owned = self.local.owned
        if owned is None:
            owned = self.local.owned = _ThreadCells(self.local.life)
            self._threads.add(owned)
            if len(self._threads) > self._most_threads:
                self._try_to_fold()
        if len(self.local.cells) >= MAX_WAYS:
            self.local.cells.clear()  # only the ways to the cells, which `owned` keeps
        self.local.cells[way] = owned.cells.setdefault((key, outcome, reason or OTHER), list(_EMPTY))

    def fold(self) -> None:
        """Add up what ended threads counted, so that memory does not grow with their number."""
        with self._folding:
            self._fold_ended()

    def take(self) -> list[SeriesDelta]:
        """Everything counted or declared since the last call, one item per label set."""
        with self._folding:
            self._fold_ended()
            deltas, self._ended = self._ended, {}
            for thread in list(self._threads):
                _add_taken(deltas, thread)
            undeclared = set[Key]()
            while self._undeclared:
                undeclared.add(self._undeclared.pop())
        items: dict[Key, SeriesDelta] = {}
        for (key, outcome, reason), delta in deltas.items():
            _add_to_item(items.setdefault(key, _labels(key)), outcome, reason, delta)
        return [*items.values(), *(_labels(key) for key in sorted(undeclared - items.keys()))]

    def pending(self) -> int:
        """Messages counted and not taken yet; for any thread, and while another one takes."""
        ended: int = sum(
            count
            for delta in list(self._ended.values())
            for position, count in list(delta.items())
            if position < BUCKETS
        )
        return ended + sum(
            sum(cell[:BUCKETS]) - sum(thread.taken.get(key, _EMPTY)[:BUCKETS])
            for thread in list(self._threads)
            for key, cell in list(thread.cells.items())
        )

    def _try_to_fold(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main and self._folding.acquire(blocking=False):
            try:
                self._fold_ended()
            finally:
                self._folding.release()

    def _fold_ended(self) -> None:
        for thread in list(self._threads):
            if thread.life() is None:  # nobody writes to it any more
                self._threads.discard(thread)
                _add_taken(self._ended, thread)
        self._most_threads = max(FEW_THREADS, 2 * len(self._threads))


def _add_taken(deltas: dict[CellKey, Delta], thread: _ThreadCells) -> None:
    for key, delta in _take_thread(thread):
        known = deltas.setdefault(key, delta)
        if known is not delta:
            for position, count in delta.items():
                known[position] = known.get(position, 0) + count


def _take_thread(thread: _ThreadCells) -> Iterator[tuple[CellKey, Delta]]:
    for key, cell in list(thread.cells.items()):
        before = thread.taken.get(key, _EMPTY)
        if cell == before:
            continue
        now = cell[:]
        thread.taken[key] = now
        if len(before) < len(now):
            before = before + EMPTY_TTFT
        changed = compress(range(len(now)), map(ne, now, before))
        yield key, {position: now[position] - before[position] for position in changed}


def _add_to_item(item: SeriesDelta, outcome: str, reason: str, delta: Delta) -> None:
    latency: dict[int, int] = {}
    ttft: dict[int, int] = {}
    for position, count in delta.items():
        if position < BUCKETS:
            latency[position] = count
        elif position >= TTFT:
            ttft[position - TTFT] = count
    messages = sum(latency.values())
    item["messages"] = item.get("messages", 0) + messages
    if outcome == "out_of_scope":
        item["out_of_scope"] = item.get("out_of_scope", 0) + messages
    elif outcome == "llm_error":
        errors = item.setdefault("llm_errors", {})
        errors[reason] = errors.get(reason, 0) + messages
    _add_histogram(item, "latency", delta.get(LATENCY_SUM, 0.0), latency)
    _add_histogram(item, "ttft", delta.get(TTFT_SUM, 0.0), ttft)
    for direction, position in _TOKENS:
        if position in delta:
            tokens = item.setdefault("tokens", {})
            tokens[direction] = tokens.get(direction, 0) + delta[position]


def _add_histogram(
    item: SeriesDelta, name: Literal["latency", "ttft"], total: float, buckets: dict[int, int]
) -> None:
    if buckets or total:
        empty: HistogramDelta = {"sum": 0.0, "buckets": {}}
        histogram = item.setdefault(name, empty)
        histogram["sum"] += total
        for bucket, count in buckets.items():
            histogram["buckets"][bucket] = histogram["buckets"].get(bucket, 0) + count


def _labels(key: Key) -> SeriesDelta:
    journey, persona, config_version = key
    return {"journey": journey, "persona": persona, "config_version": config_version}
