"""Counts messages in the caller's thread, without a lock.

Each thread has its own cumulative counts and is their only writer, and a count goes up by one list operation.
The flush thread copies a list in one step (atomic in CPython) and sends the difference to the last copy. So
nothing is ever set back or swapped under a writer, a message is either in a copy or in the next one, and
memory does not grow while the exporter is away. What threads counted that have ended since is added up.
"""

import threading
import weakref
from collections.abc import Iterator
from itertools import count as count_from
from typing import Any, Final

from exporter.catalogue import BUCKETS, LABEL_SET, OTHER, REASONS

MAX_LABEL_SETS: Final = 1000
"""Label sets that one recorder holds; further ones are counted under persona and config_version `other`."""

FEW_THREADS: Final = 64
"""A new thread looks for ended ones when the cells of more are held, and of twice as many as lived then."""

MAX_JOURNEYS: Final = 32
MAX_LABEL_LENGTH: Final = 128

# A cell is a list: latency counts by outcome and bucket (so that a message is one increment), then the rest.
OUTCOME_OFFSETS: Final = {"ok": 0, "out_of_scope": BUCKETS, "llm_error": BUCKETS * (2 + REASONS.index(OTHER))}
REASON_OFFSETS: Final = {reason: BUCKETS * (2 + index) for index, reason in enumerate(REASONS)}
TTFT: Final = BUCKETS * (2 + len(REASONS))
INPUT: Final = TTFT + BUCKETS
OUTPUT: Final = INPUT + 1
LATENCY_SUM: Final = OUTPUT + 1
TTFT_SUM: Final = LATENCY_SUM + 1
_EMPTY: Final = [0] * LATENCY_SUM + [0.0, 0.0]
_BLOCKS: Final = [slice(start, start + BUCKETS) for start in range(0, TTFT_SUM + 1, BUCKETS)]

Cell = list[Any]
Delta = dict[int, Any]
"""What was added to a cell, by position: few positions of many."""
Key = tuple[str, str, str]
Item = dict[str, Any]
"""An element of `series` in the body of a push."""


class _Life:
    """Ends with its thread, whoever made that: only the thread's `Local` holds it."""


class _ThreadCells:
    """The cells of one thread, and what of them was taken already."""

    def __init__(self, life: _Life) -> None:
        self.life = weakref.ref(life)
        self.cells: dict[Key, Cell] = {}
        self.taken: dict[Key, Cell] = {}


class Local(threading.local):
    """The current thread's cells under the labels as the caller gives them (a version may be a number)."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str | int], Cell] = {}
        self.life = _Life()
        self.owned: _ThreadCells | None = None


class Buffer:
    """All cells of a recorder. Cells are made by any thread, and taken by one."""

    def __init__(self) -> None:
        self.local = Local()
        self._threads: list[_ThreadCells] = []
        self._ended: dict[Key, Delta] = {}
        """What ended threads counted and nobody took."""
        self._most_threads = FEW_THREADS
        self._folding = threading.Lock()  # held for as long as it takes, so `record` never waits for it
        self._lock = threading.RLock()  # a signal's handler may come here while its thread holds it
        self._known: set[Key] = set()
        self._undeclared: set[Key] = set()

    def declare(self, journey: str, persona: str, config_version: str | int) -> Key:
        """Make a label set known, so that it is exported at zero. Raises ValueError for bad labels."""
        is_number = isinstance(config_version, int) and not isinstance(config_version, bool)
        version = str(config_version) if is_number or isinstance(config_version, str) else ""
        key = (journey, persona, version)
        if not all(isinstance(label, str) and 0 < len(label) <= MAX_LABEL_LENGTH for label in key):
            raise ValueError("a label is a text of 1 to 128 characters")
        "".join(key).encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
        if "\0" in "".join(key):
            raise ValueError("a label holds a NUL character")
        with self._lock:
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
        with self._lock:
            self._undeclared |= self._known

    def make_cell(self, journey: str, persona: str, config_version: str | int) -> None:
        """Make a cell for the current thread, which finds it in `local.cells`. Raises ValueError."""
        key = self.declare(journey, persona, config_version)
        owned = self.local.owned
        if owned is None:
            owned = self.local.owned = _ThreadCells(self.local.life)
            with self._lock:
                self._threads.append(owned)
            if len(self._threads) > self._most_threads and self._folding.acquire(blocking=False):
                try:
                    self._fold_ended()
                finally:
                    self._folding.release()
        if len(self.local.cells) >= 2 * MAX_LABEL_SETS:
            self.local.cells.clear()  # only the way to the cells, which `owned` keeps
        self.local.cells[journey, persona, config_version] = owned.cells.setdefault(key, list(_EMPTY))

    def fold(self) -> None:
        """Add up what ended threads counted, so that memory does not grow with their number."""
        with self._folding:
            self._fold_ended()

    def take(self) -> list[Item]:
        """Everything counted or declared since the last call, one item per label set."""
        with self._folding:
            self._fold_ended()
            with self._lock:
                threads = list(self._threads)
                undeclared, self._undeclared = self._undeclared, set()
            deltas, self._ended = self._ended, {}
            for thread in threads:
                _add_taken(deltas, thread)
        items = [_item(key, delta) for key, delta in deltas.items()]
        return items + [_labels(key) for key in sorted(undeclared - deltas.keys())]

    def pending(self) -> int:
        """Messages counted and not taken yet; for any thread, and while another one takes."""
        with self._lock:
            threads = list(self._threads)
        ended: int = sum(
            count
            for delta in list(self._ended.values())
            for position, count in list(delta.items())
            if position < TTFT
        )
        return ended + sum(
            sum(cell[:TTFT]) - sum(thread.taken.get(key, _EMPTY)[:TTFT])
            for thread in threads
            for key, cell in list(thread.cells.items())
        )

    def _fold_ended(self) -> None:
        live: list[_ThreadCells] = []
        ended: list[_ThreadCells] = []
        with self._lock:
            for thread in self._threads:
                (ended if thread.life() is None else live).append(thread)
            self._threads = live
            self._most_threads = max(FEW_THREADS, 2 * len(live))
        for thread in ended:  # nobody writes to them any more
            _add_taken(self._ended, thread)


def _add_taken(deltas: dict[Key, Delta], thread: _ThreadCells) -> None:
    for key, delta in _take_thread(thread):
        known = deltas.setdefault(key, delta)
        if known is not delta:
            for position, count in delta.items():
                known[position] = known.get(position, 0) + count


def _take_thread(thread: _ThreadCells) -> Iterator[tuple[Key, Delta]]:
    for key, cell in list(thread.cells.items()):
        now = cell[:]
        before = thread.taken.get(key, _EMPTY)
        delta: Delta = {}
        for block in _BLOCKS:  # most are as they were, which a comparison of two lists sees fastest
            counts, known = now[block], before[block]
            if counts != known:
                for position, count, taken in zip(count_from(block.start), counts, known, strict=False):
                    if count != taken:
                        delta[position] = count - taken
        if delta:
            thread.taken[key] = now
            yield key, delta


def _item(key: Key, delta: Delta) -> Item:
    by_outcome = [0] * (2 + len(REASONS))
    latency: dict[int, int] = {}
    ttft: dict[int, int] = {}
    tokens: dict[str, int] = {}
    for position, count in delta.items():
        if position < TTFT:
            outcome, bucket = divmod(position, BUCKETS)
            by_outcome[outcome] += count
            latency[bucket] = latency.get(bucket, 0) + count
        elif position < INPUT:
            ttft[position - TTFT] = count
        elif position < LATENCY_SUM:
            tokens["input" if position == INPUT else "output"] = count
    item = _labels(key)
    item["messages"] = sum(by_outcome)
    item["out_of_scope"] = by_outcome[1]
    item["llm_errors"] = {reason: n for reason, n in zip(REASONS, by_outcome[2:], strict=True) if n}
    item["latency"] = _histogram(delta.get(LATENCY_SUM, 0.0), latency)
    item["ttft"] = _histogram(delta.get(TTFT_SUM, 0.0), ttft)
    item["tokens"] = tokens
    return {name: value for name, value in item.items() if value}


def _histogram(total: float, buckets: dict[int, int]) -> dict[str, Any]:
    return {"sum": total, "buckets": buckets} if buckets or total else {}


def _labels(key: Key) -> Item:
    return dict(zip(LABEL_SET, key, strict=True))
