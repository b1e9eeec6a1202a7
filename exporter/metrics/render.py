"""Text exposition of the conversation series, byte for byte as `prometheus_client` writes it.

All lines of a label set in one family are a template: `%` puts in the counts, `replace` the labels. So
nothing is kept per series and a line costs a fraction of a microsecond. Label values never hold NUL (`ingest`
refuses it): NUL marks the places.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from prometheus_client import utils

from driftback import contract
from exporter import catalogue
from exporter.catalogue import Metric
from exporter.storage.series import (
    ERRORS,
    LATENCY,
    MESSAGES,
    OUT_OF_SCOPE,
    TOKENS,
    TTFT,
    LabelSet,
    label_pair,
)

LABEL_SETS_PER_CHUNK = 8
"""How many label sets are rendered before other work may run."""

_FIRST_WITH_EXPONENT = 1_000_000
"""Go's shortest float format, which the exposition follows, writes integers from here on as 1e+06."""

_HEAD, _TAIL, _COUNT = "\0h", "\0t", "\0c"

Numbers = tuple[int, tuple[int | str, ...]]
"""The largest integer among the values, and the values in the order of the lines."""


class View(NamedTuple):
    """What is rendered: label sets in order, reasons in the order of their counts, journeys with a scope.

    The label sets are copies of one moment, so that no scrape shows an error without its message.
    """

    label_sets: Sequence[LabelSet]
    reasons: Sequence[str]
    out_of_scope_journeys: Collection[str]


class _Family(NamedTuple):
    metric: Metric
    numbers: Callable[[LabelSet], Numbers]
    extra_label: str | None
    template: str
    included: Callable[[LabelSet], bool] = lambda _: True


def render(view: View, openmetrics: bool) -> Iterator[str]:
    """The exposition, in chunks of a bounded amount of work; without OpenMetrics' closing `# EOF`."""
    for family in _families(view):
        yield from _render_family(family, [s for s in view.label_sets if family.included(s)], openmetrics)


def _families(view: View) -> tuple[_Family, ...]:
    def in_scope(label_set: LabelSet) -> bool:
        return label_set.key[0] in view.out_of_scope_journeys or label_set.counts[OUT_OF_SCOPE] > 0

    reasons = slice(ERRORS.start, ERRORS.start + len(view.reasons))
    return (
        _counter(catalogue.MESSAGES, slice(MESSAGES, MESSAGES + 1)),
        _counter(catalogue.OUT_OF_SCOPE, slice(OUT_OF_SCOPE, OUT_OF_SCOPE + 1))._replace(included=in_scope),
        _counter(catalogue.LLM_ERRORS, reasons, "reason", view.reasons),
        _histogram(catalogue.LATENCY, LATENCY, contract.LATENCY_BOUNDS, lambda s: s.latency_sum),
        _histogram(catalogue.TIME_TO_FIRST_TOKEN, TTFT, catalogue.TTFT_BOUNDS, lambda s: s.ttft_sum)._replace(
            included=lambda s: any(s.counts[TTFT])
        ),
        _counter(catalogue.TOKENS, TOKENS, "direction", contract.DIRECTIONS),
        _Family(
            catalogue.CREATED,
            lambda label_set: (0, (_number(label_set.created),)),
            None,
            f"{catalogue.CREATED.name}{{{_labels()}}} %s\n",
        ),
    )


def _counter(
    metric: Metric, where: slice, extra_label: str | None = None, values: Iterable[str] = ("",)
) -> _Family:
    lines = (f"{metric.name}{{{_labels(extra_label, value)}}} {_COUNT}\n" for value in values)

    def numbers(label_set: LabelSet) -> Numbers:
        counts = tuple(label_set.counts[where])
        return max(counts), counts

    return _Family(metric, numbers, extra_label, "".join(lines))


def _histogram(
    metric: Metric, where: slice, bounds: Sequence[float], total: Callable[[LabelSet], float]
) -> _Family:
    """`bounds` are all or some of those by which messages are counted."""
    texts = (*map(_number, bounds), "+Inf")
    lines = [f"{metric.name}_bucket{{{_labels('le', text)}}} {_COUNT}\n" for text in texts]
    labels = f"{_HEAD},{_TAIL}"
    lines += [f"{metric.name}_count{{{labels}}} {_COUNT}\n", f"{metric.name}_sum{{{labels}}} %s\n"]
    pick = itemgetter(*map(contract.LATENCY_BOUNDS.index, bounds))

    def numbers(label_set: LabelSet) -> Numbers:
        cumulative = tuple(accumulate(label_set.counts[where]))
        count = cumulative[-1]
        return count, (*pick(cumulative), count, count, _number(total(label_set)))

    return _Family(metric, numbers, "le", "".join(lines))


def _render_family(family: _Family, label_sets: Sequence[LabelSet], openmetrics: bool) -> Iterator[str]:
    metric = family.metric
    name = metric.name.removesuffix("_total") if openmetrics else metric.name
    yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
    yield from _blocks(family, label_sets)


def _blocks(family: _Family, label_sets: Sequence[LabelSet]) -> Iterator[str]:
    """The filled template for each label set, LABEL_SETS_PER_CHUNK at a time."""
    split = _split(family.extra_label)
    template = family.template.replace(_COUNT, "%d.0")
    with_exponents = family.template.replace(_COUNT, "%s")
    has_tail = _TAIL in template
    for start in range(0, len(label_sets), LABEL_SETS_PER_CHUNK):
        blocks = []
        for label_set in label_sets[start : start + LABEL_SETS_PER_CHUNK]:
            largest, values = family.numbers(label_set)
            if largest < _FIRST_WITH_EXPONENT:
                block = template % values
            else:
                block = with_exponents % tuple(v if isinstance(v, str) else _number(v) for v in values)
            block = _fill(block, _HEAD, ",".join(label_set.label_pairs[:split]))
            if has_tail:
                block = _fill(block, _TAIL, ",".join(label_set.label_pairs[split:]))
            blocks.append(block)
        yield "".join(blocks)


def _fill(template: str, place: str, text: str) -> str:
    return text.join(template.split(place))  # twice as fast as `replace` with this many places


def _labels(extra_label: str | None = None, value: str = "") -> str:
    """The labels of a line in a template. `%` in a value is doubled: templates are formatted."""
    if extra_label is None:
        return _HEAD
    extra = label_pair(extra_label, value).replace("%", "%%")
    return (
        f"{_HEAD},{extra}"
        if _split(extra_label) == len(catalogue.CONVERSATION_LABELS)
        else f"{_HEAD},{extra},{_TAIL}"
    )


def _split(extra_label: str | None) -> int:
    """How many common labels come before the extra one: the labels of a line are in alphabetical order."""
    return sum(extra_label is None or label < extra_label for label in catalogue.CONVERSATION_LABELS)


def _number(value: float) -> str:
    return str(utils.floatToGoString(value))  # type: ignore[no-untyped-call]
