"""The state: batches count once, a snapshot holds everything, a replay ends where the run was."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.errors import StateUnusableError
from exporter.storage import state as kinds
from exporter.storage.clock import Moment
from exporter.storage.journal import Record, Recovery
from exporter.storage.series import SavedLabelSet
from exporter.storage.state import DAY, MAX_REMEMBERED, Expiry, ObservationsBatch, State
from exporter.wire import HistogramDelta, Push, SeriesDelta

START = 1_700_000_000.0


def at(running: float) -> Moment:
    """A moment, of which the system's clock says nothing but nonsense."""
    return Moment(running, START - running)


DELTA = st.builds(
    SeriesDelta,
    journey=st.sampled_from(["chat", "guidance"]),
    persona=st.sampled_from(["a", "b"]),
    config_version=st.sampled_from(["1", "2"]),
    messages=st.integers(0, 9),
    llm_errors=st.dictionaries(st.sampled_from(["timeout", "one that no policy has"]), st.integers(1, 9)),
    latency=st.none() | st.builds(HistogramDelta, sum=st.floats(0, 9), buckets=st.just({0: 1, 44: 2})),
)
PUSH = st.builds(
    Push,
    client=st.sampled_from(["x", "y"]),
    epoch=st.integers(0, 1),
    seq=st.integers(1, 5),
    series=st.lists(DELTA, max_size=3),
)
BATCH = st.builds(
    ObservationsBatch, key=st.sampled_from("kl"), digest=st.just("d"), series=st.lists(DELTA, max_size=3)
)
EVENT = st.one_of(PUSH, BATCH, st.just("expiry"), st.just("snapshot"))


def saved(state: State) -> tuple[tuple[str, ...], list[SavedLabelSet], Record]:
    """All that a state holds, comparable."""
    return state.table.reasons, state.table.save(), state.snapshot()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(EVENT, st.floats(0, 5 * DAY)), max_size=20))
def test_a_replay_ends_where_the_live_run_was(
    events: list[tuple[Push | ObservationsBatch | str, float]],
) -> None:
    live = State()
    live.table.journal = "j"
    records: list[tuple[Moment, Record]] = []
    now = 0.0
    for event, pause in events:
        now += pause
        if isinstance(event, Push):
            records.append((at(now), Record(kinds.PUSH, msgspec.json.encode(event))))
            live.apply_push(event, at(now))
        elif isinstance(event, ObservationsBatch):
            records.append((at(now), Record(kinds.OBSERVATIONS, msgspec.json.encode(event))))
            live.apply_observations(event, at(now))
        elif event == "expiry":
            expiry = Expiry(before=now - kinds.EXPIRY_SECONDS)
            records.append((at(now), Record(kinds.EXPIRY, msgspec.json.encode(expiry))))
            live.apply_expiry(expiry)
        else:
            records = [(at(now), live.snapshot())]
    replayed = State()
    replayed.recover(Recovery("j", records, None, 0), at(now))
    assert saved(replayed) == saved(live)


def test_what_was_counted_is_not_counted_again() -> None:
    state = State()
    push = Push("c", 1, 1, series=[SeriesDelta("chat", "p", "1", messages=1)])
    batch = ObservationsBatch("k", "d", push.series)
    for _ in range(2):
        state.apply_push(push, at(0))
        state.apply_observations(batch, at(0))
    assert [label_set.counts[0] for label_set in state.table] == [2]


def test_a_client_is_forgotten_after_eight_days_of_silence() -> None:
    state = State()
    state.apply_push(Push("a", 1, 7), at(0))
    state.apply_push(Push("b", 1, 7), at(0))
    state.apply_push(Push("a", 1, 8), at(5 * DAY))
    state.apply_push(Push("c", 1, 1), at(9 * DAY))
    assert [state.last_seq(client, 1) for client in "abc"] == [8, 0, 1]


def test_a_journal_whose_time_goes_back_makes_no_label_set_older() -> None:
    state = State()
    delta = SeriesDelta("chat", "p", "1", messages=1)
    state.apply_push(Push("c", 1, 1, series=[delta]), at(0))
    state.apply_push(Push("c", 1, 2, series=[delta]), at(-30 * DAY))
    state.apply_expiry(Expiry(before=-8 * DAY))
    assert [label_set.counts[0] for label_set in state.table] == [2]


def test_a_journal_whose_time_goes_back_makes_no_batch_older() -> None:
    state = State()
    state.apply_push(Push("a", 1, 1), at(0))
    state.apply_push(Push("a", 1, 2), at(-30 * DAY))
    state.apply_push(Push("b", 1, 1), at(-30 * DAY))
    state.apply_push(Push("c", 1, 1), at(0))
    assert [state.last_seq(client, 1) for client in "abc"] == [2, 1, 1]


def test_the_names_of_batches_are_bounded() -> None:
    state = State()
    for number in range(MAX_REMEMBERED + 10):
        state.apply_push(Push(f"c{number}", 1, 1), at(0))
    assert [state.last_seq(f"c{number}", 1) for number in (9, 10, MAX_REMEMBERED + 9)] == [0, 1, 1]


@pytest.mark.parametrize("kind", [kinds.PUSH, kinds.OBSERVATIONS, kinds.EXPIRY, kinds.SNAPSHOT, b"?"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"client": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_a_state_that_cannot_be_used(kind: bytes, body: bytes) -> None:
    with pytest.raises(StateUnusableError, match="a record that cannot be read"):
        State().recover(Recovery("j", [(at(0), Record(kind, body))], None, 0), at(0))
