"""The table of counters: what is added, kept, set to zero and forgotten."""

from driftback import contract
from exporter.storage.clock import Moment
from exporter.storage.series import ERRORS, LATENCY, MESSAGES, TOKENS, SeriesTable
from exporter.wire import HistogramDelta, SeriesDelta, TokensDelta

DELTA = SeriesDelta(
    "chat",
    "p",
    "1",
    messages=2,
    llm_errors={"of no policy": 1},
    latency=HistogramDelta(sum=1.5, buckets={1: 2}),
    tokens=TokensDelta(input=7),
)
KEY = ("chat", "p", "1")


def at(running: float) -> Moment:
    return Moment(running, 1_700_000_000.0)


def test_increments_add_up_and_a_copy_stays_as_it_was() -> None:
    table = SeriesTable()
    table.add(DELTA, at(0))
    (label_set,) = table
    copy = label_set.copy()
    table.add(DELTA, at(1))
    counts = label_set.counts
    assert (counts[MESSAGES], counts[TOKENS], counts[LATENCY.start + 1]) == (4, [14, 0], 4)
    assert (copy.counts[MESSAGES], copy.latency_sum, label_set.latency_sum) == (2, 1.5, 3.0)


def test_a_reason_that_no_policy_has_is_counted_and_known_to_every_label_set() -> None:
    table = SeriesTable()
    table.add(SeriesDelta("guidance", "q", "1"), at(0))
    table.add(DELTA, at(0))
    assert table.reasons == (*contract.REASONS, "of no policy")
    assert [label_set.counts[-1] for label_set in table] == [0, 1]


def test_what_is_saved_is_restored_also_where_reasons_have_another_order() -> None:
    table = SeriesTable()
    table.add(DELTA, at(3))
    other = SeriesTable(("of no policy", *reversed(contract.REASONS)))
    other.restore(table.save(), table.reasons)
    (label_set,) = other
    assert (label_set.key, label_set.touched, label_set.latency_sum) == (KEY, 3, 1.5)
    assert label_set.counts[ERRORS.start] == 1
    assert sum(label_set.counts) == sum(next(iter(table)).counts)


def test_a_count_that_the_journal_cannot_hold_is_saved_as_its_largest() -> None:
    table = SeriesTable()
    for _ in range(2):
        table.add(SeriesDelta(*KEY, tokens=TokensDelta(input=2**63 - 1)), at(0))
    assert table.save()[0].counts[TOKENS.start] == 2**63 - 1


def test_a_reset_keeps_the_label_sets_at_zero_and_a_removal_forgets_them() -> None:
    table = SeriesTable()
    table.add(DELTA, at(0))
    table.reset("another", at(9))
    (label_set,) = table
    assert not any(label_set.counts)
    assert 'journal="another"' in label_set.label_pairs
    assert (table.untouched_since(9), table.untouched_since(10)) == ([], [KEY])
    table.remove([KEY])
    assert list(table.keys()) == []
