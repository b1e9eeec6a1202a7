"""A system clock that jumps: nothing is counted twice, forgotten or dropped, and it is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exporter.app import Application
from exporter.errors import ClockError
from exporter.storage.clock import EARLIEST, JournalClock, Moment
from tests.exporter.running import Clock, Running, series, settings_for

DAY = 86_400.0
MESSAGE = {"journey": "chat", "persona": "p", "config_version": "1", "outcome": "ok", "latency_ms": 1}


def observe(exporter: Running) -> bool:
    """Send a batch of one message under a fixed key; whether it was known."""
    answer = exporter.post("/v1/observations", [MESSAGE], headers={"Idempotency-Key": "k"})
    return bool(answer.json()["data"]["duplicate"])


@pytest.mark.parametrize("days", [30, -30, 20_000])
def test_a_retry_counts_once_whatever_the_clock_said_between(
    exporter: Running, clock: Clock, days: int
) -> None:
    exporter.push(series(messages=3), seq=1)
    observe(exporter)
    clock.now += days * DAY
    exporter.push(series(messages=1), seq=1, client="another")
    clock.now -= days * DAY
    assert exporter.push(series(messages=3), seq=1)["duplicate"] is True
    assert observe(exporter) is True
    assert exporter.value("conversation_messages_total") == 5


@pytest.mark.parametrize("days", [30, -30], ids=["ahead", "behind"])
def test_a_start_with_a_wrong_clock_loses_nothing_and_says_so(
    start: Callable[..., Running], clock: Clock, days: int
) -> None:
    exporter = start()
    exporter.push(series(messages=3), seq=1)
    journal = exporter.journal()
    exporter.stop()
    clock.now += days * DAY
    exporter = start()
    assert exporter.value("exporter_clock_jumps_total") == 1
    exporter.push(series(persona="another", messages=1), seq=1, client="another")
    assert exporter.push(series(messages=3), seq=1)["duplicate"] is True
    exporter.stop()
    clock.now -= days * DAY
    exporter = start()
    assert exporter.push(series(messages=3), seq=1)["duplicate"] is True
    assert exporter.value("conversation_messages_total") == 4
    assert exporter.journal() == journal


@pytest.mark.parametrize(("days", "direction"), [(30, "ahead"), (-30, "behind")], ids=["ahead", "behind"])
def test_a_jump_is_counted(start: Callable[..., Running], clock: Clock, days: int, direction: str) -> None:
    exporter = start()
    exporter.push(series(messages=1), seq=1)
    assert exporter.value("exporter_clock_jumps_total") == 0
    clock.now += days * DAY
    exporter.push(series(messages=1), seq=2)
    exporter.push(series(messages=1), seq=3)
    assert exporter.value("exporter_clock_jumps_total") == 1
    assert exporter.value("exporter_clock_jumps_total", direction=direction) == 1


def test_a_clock_that_was_never_set_is_refused_at_the_start(state_dir: Path) -> None:
    with pytest.raises(ClockError, match="set it"):
        Application(settings_for(state_dir), CollectorRegistry(), lambda: 30.0)


def test_a_clock_that_falls_back_gives_no_birth_before_the_newest_known_time(
    exporter: Running, clock: Clock
) -> None:
    exporter.push(series(messages=1), seq=1)
    newest, clock.now = clock.now, 30.0
    exporter.push(series(config_version="2", messages=1), seq=2)
    assert exporter.value("conversation_created_timestamp_seconds", config_version="2") == newest


def test_running_time_goes_on_where_the_journal_ended(start: Callable[..., Running], clock: Clock) -> None:
    for _ in range(3):
        exporter = start()
        exporter.push(series(messages=1), seq=1, client="early")
        clock.wait(3 * DAY)
        exporter.push(series(config_version="2"), seq=int(clock.now), client="late")
        exporter.stop()
    exporter = start()
    assert exporter.push(series(messages=1), seq=1, client="early")["duplicate"] is False


@pytest.fixture
def jumps() -> list[str]:
    return []


def journal_clock(clock: Clock, newest: Moment, jumps: list[str]) -> JournalClock:
    return JournalClock(clock, clock.monotonic, newest, jumps.append)


def test_small_corrections_and_stops_are_no_jumps(clock: Clock, jumps: list[str]) -> None:
    journal = journal_clock(clock, Moment(5.0, clock.now - 7 * DAY), jumps)
    for correction in (40.0, -40.0, -40.0):
        clock.wait(10)
        clock.now += correction
        journal.now()
    assert journal.now().running == 35.0
    assert jumps == []


def test_a_new_journal_begins_at_zero_with_any_clock_that_was_set(clock: Clock, jumps: list[str]) -> None:
    clock.now = EARLIEST
    assert journal_clock(clock, Moment(0.0, 0.0), jumps).now() == Moment(0.0, EARLIEST)
    assert jumps == []
