"""The counters of conversations: one flat list of integers per label set instead of an object per series.

A label set with its two histograms is 58 to 73 series in an exposition. Here it is one list of about a
hundred counts and two floats.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from driftback import contract
from exporter.storage.clock import Moment
from exporter.wire import HistogramDelta, SeriesDelta

MESSAGES, OUT_OF_SCOPE = range(2)
TOKENS = slice(2, 2 + len(contract.DIRECTIONS))
LATENCY = slice(TOKENS.stop, TOKENS.stop + contract.BUCKETS)
TTFT = slice(LATENCY.stop, LATENCY.stop + contract.BUCKETS)
ERRORS = slice(TTFT.stop, None)
"""Where each metric is in `LabelSet.counts`. Errors come last, one per reason: reasons can be added."""

_LARGEST = 2**63 - 1
"""The largest count that the journal can store. A larger count is nonsense, but must not stop the journal."""

Key = tuple[str, str, str]
"""(journey, persona, config_version)"""


class SavedLabelSet(NamedTuple):
    """A label set as the journal keeps it. `counts` is in the order above, with `reasons` naming its tail.

    `created` is in Unix seconds, `touched` in seconds of running time.
    """

    key: Key
    created: float
    touched: float
    latency_sum: float
    ttft_sum: float
    counts: Sequence[int]


def label_pair(name: str, value: str) -> str:
    """A label as the text formats write it, with the three characters escaped that they give a meaning."""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


class LabelSet:
    """All counters of one (journey, persona, config_version). Times are as in `SavedLabelSet`."""

    __slots__ = ("counts", "created", "key", "label_pairs", "latency_sum", "touched", "ttft_sum")

    def __init__(self, key: Key, created: float, touched: float, journal: str, reasons: int) -> None:
        labels = {**dict(zip(contract.LABEL_SET, key, strict=True)), "journal": journal}
        self.key = key
        self.label_pairs = tuple(label_pair(name, labels[name]) for name in sorted(labels))
        self.created = created
        self.touched = touched
        self.latency_sum = 0.0
        self.ttft_sum = 0.0
        self.counts = [0] * (ERRORS.start + reasons)

    def copy(self) -> "LabelSet":
        """The same counts, which do not go on."""
        copy = LabelSet.__new__(LabelSet)
        copy.key = self.key
        copy.label_pairs = self.label_pairs
        copy.created = self.created
        copy.touched = self.touched
        copy.latency_sum = self.latency_sum
        copy.ttft_sum = self.ttft_sum
        copy.counts = self.counts.copy()
        return copy


class SeriesTable:
    """Every label set, in the order in which they became known."""

    def __init__(self, reasons: Iterable[str] = contract.REASONS) -> None:
        self.journal = ""
        """Label value that all series carry."""
        self._reasons = {reason: index for index, reason in enumerate(reasons, start=ERRORS.start)}
        self._label_sets: dict[Key, LabelSet] = {}

    def __len__(self) -> int:
        return len(self._label_sets)

    def __iter__(self) -> Iterator[LabelSet]:
        return iter(self._label_sets.values())

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons, in the order of the tail of `LabelSet.counts`."""
        return tuple(self._reasons)

    def keys(self) -> Iterable[Key]:
        """The keys of all label sets."""
        return self._label_sets.keys()

    def add(self, delta: SeriesDelta, now: Moment) -> None:
        """Add increments. Makes the label set known if it was not. Nothing here can fail half-way."""
        key = (delta.journey, delta.persona, delta.config_version)
        label_set = self._label_sets.get(key)
        if label_set is None:
            label_set = self._label_sets[key] = self._new(key, now.unix, now.running)
        label_set.touched = max(label_set.touched, now.running)  # journals of format 1 went by the clock
        counts = label_set.counts
        counts[MESSAGES] += delta.messages
        counts[OUT_OF_SCOPE] += delta.out_of_scope
        for reason, count in delta.llm_errors.items():
            counts[self._reason_index(reason)] += count
        if delta.latency is not None:
            label_set.latency_sum += _add_buckets(counts, LATENCY.start, delta.latency)
        if delta.ttft is not None:
            label_set.ttft_sum += _add_buckets(counts, TTFT.start, delta.ttft)
        if delta.tokens is not None:
            counts[TOKENS.start] += delta.tokens.input
            counts[TOKENS.start + 1] += delta.tokens.output

    def know_reasons(self, reasons: Iterable[str]) -> None:
        """Export these reasons too, at zero."""
        for reason in reasons:
            self._reason_index(reason)

    def remove(self, keys: Iterable[Key]) -> None:
        """Forget label sets."""
        for key in keys:
            self._label_sets.pop(key, None)

    def untouched_since(self, running: float) -> list[Key]:
        """The keys of label sets without an increment or declaration since then, in running time."""
        return [label_set.key for label_set in self if label_set.touched < running]

    def reset(self, journal: str, now: Moment) -> None:
        """Set every known label set to zero, as created `now`, under another journal id."""
        self.journal = journal
        self._label_sets = {key: self._new(key, now.unix, now.running) for key in self._label_sets}

    def save(self) -> list[SavedLabelSet]:
        """All label sets as plain values, for the journal."""
        return [
            SavedLabelSet(
                s.key, s.created, s.touched, s.latency_sum, s.ttft_sum, [min(n, _LARGEST) for n in s.counts]
            )
            for s in self
        ]

    def restore(self, saved: Iterable[SavedLabelSet], reasons: Iterable[str]) -> None:
        """Take over what `save` wrote, when `reasons` were those of the table that wrote it."""
        indexes = [self._reason_index(reason) for reason in reasons]
        for entry in saved:
            label_set = self._new(entry.key, entry.created, entry.touched)
            label_set.latency_sum = entry.latency_sum
            label_set.ttft_sum = entry.ttft_sum
            label_set.counts[: ERRORS.start] = entry.counts[: ERRORS.start]
            for index, count in zip(indexes, entry.counts[ERRORS], strict=True):
                label_set.counts[index] = count
            self._label_sets[entry.key] = label_set

    def _new(self, key: Key, created: float, touched: float) -> LabelSet:
        return LabelSet(key, created, touched, self.journal, len(self._reasons))

    def _reason_index(self, reason: str) -> int:
        """Index of a reason. One that the policy no longer knows still counts: it was acknowledged."""
        index = self._reasons.get(reason)
        if index is None:
            index = self._reasons[reason] = ERRORS.start + len(self._reasons)
            for label_set in self:
                label_set.counts.append(0)
        return index


def _add_buckets(counts: list[int], start: int, delta: HistogramDelta) -> float:
    for index, count in delta.buckets.items():
        counts[start + index] += count
    return delta.sum
