"""The counts in memory: each thread its own, ended threads added up, everything bounded."""

import _thread
import sys
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driftback import Recorder
from driftback.recorder.buffer import FEW_THREADS, MAX_LABEL_SETS
from driftback.recorder.sender import Counts
from tests.exporter.running import Process, Running, wait_for
from tests.support.stacks import free_port

NOBODY = "http://127.0.0.1:1"
LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": "1"}


def test_threads_lose_nothing_even_after_they_ended(exporter: Running, recorder: Recorder) -> None:
    def work(number: int) -> None:
        for count in range(3000):
            recorder.record(**{**LABELS, "config_version": number % 2}, latency_ms=count, input_tokens=1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert recorder.flush()
    assert recorder.flush()
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 18_000
    assert exporter.value("conversation_latency_seconds_count") == 18_000
    assert exporter.value("conversation_tokens_total", direction="input") == 18_000
    wait_for(lambda: recorder.flush() and not recorder._buffer._threads)


def _own_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _foreign_thread(work: Callable[[], None]) -> None:
    """A thread that `threading` did not make and never hears the end of, such as one of a C library."""
    done = _thread.allocate_lock()
    done.acquire()

    def work_and_say() -> None:
        try:
            work()
        finally:
            done.release()

    _thread.start_new_thread(work_and_say, ())
    done.acquire()


in_threads = pytest.mark.parametrize("in_a_thread", [_own_thread, _foreign_thread])


@in_threads
def test_ended_threads_leave_nothing_behind_while_the_exporter_is_away(
    launch: Callable[..., Process],
    recorder_for: Callable[..., Recorder],
    in_a_thread: Callable[[Callable[[], None]], None],
) -> None:
    port = free_port()
    recorder = recorder_for(f"http://127.0.0.1:{port}")
    for number in range(300):
        version = {**LABELS, "config_version": number % 2}
        in_a_thread(partial(recorder.record, **version, latency_ms=500, input_tokens=1))
    assert not recorder.flush(timeout=0.2)
    wait_for(lambda: not recorder.flush(timeout=0.01) and not recorder._buffer._threads)
    wait_for(lambda: recorder.counts() == Counts(acknowledged=0, waiting=300, in_doubt=0, dropped=0))
    exporter = launch(EXPORTER_PORT=str(port))
    assert recorder.flush(timeout=20)
    assert recorder.counts() == Counts(acknowledged=300, waiting=0, in_doubt=0, dropped=0)
    assert exporter.value("conversation_messages_total", config_version="1") == 150
    assert exporter.value("conversation_latency_seconds_sum") == 150
    assert exporter.value("conversation_tokens_total", direction="input") == 300


@in_threads
def test_ended_threads_leave_little_behind_between_two_deliveries(
    exporter: Running,
    recorder_for: Callable[..., Recorder],
    in_a_thread: Callable[[Callable[[], None]], None],
) -> None:
    recorder = recorder_for(exporter, flush_interval=3600)
    most = 0
    for number in range(1, 1001):
        in_a_thread(lambda: recorder.record(**LABELS, latency_ms=500))
        most = max(most, len(recorder._buffer._threads))
        if number % 100 == 0:
            assert recorder.counts().waiting == number
    assert most <= 2 * FEW_THREADS
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 1000


def test_threads_that_begin_and_end_all_the_time_lose_nothing(exporter: Running, recorder: Recorder) -> None:
    def work() -> None:
        for _ in range(400):
            _own_thread(lambda: recorder.record(**LABELS, latency_ms=500, input_tokens=1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert recorder.flush()
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=1600, waiting=0, in_doubt=0, dropped=0)
    assert exporter.value("conversation_messages_total") == 1600
    assert exporter.value("conversation_tokens_total", direction="input") == 1600


@pytest.mark.parametrize("argument", ["journey", "persona", "config_version", "reason"])
def test_however_many_texts_a_caller_invents_memory_stays_as_it_is(
    recorder_for: Callable[..., Recorder], argument: str
) -> None:
    recorder = recorder_for(NOBODY, flush_interval=3600)
    length = 20_000 if argument == "reason" else 100

    def held_after(messages: range) -> int:
        for number in messages:
            invented = {argument: f"{number:0{length}}"}
            recorder.record(**{**LABELS, "outcome": "llm_error", **invented}, latency_ms=5)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held_after(range(5000))
        assert held_after(range(5000, 10_000)) - before < 3_000_000
    finally:
        tracemalloc.stop()
    assert sum(recorder.counts()) == 10_000


def test_a_thread_holds_little_of_a_label_set_and_touches_none_that_did_not_change(
    exporter: Running, recorder_for: Callable[..., Recorder]
) -> None:
    recorder = recorder_for(exporter, flush_interval=3600)
    label_sets = 100

    def count() -> None:
        for number in range(label_sets):
            recorder.record(
                **{**LABELS, "persona": f"p{number % 30}", "config_version": number}, latency_ms=5
            )

    count()
    recorder._buffer.take()
    (thread,) = recorder._buffer._threads
    held = sum(sys.getsizeof(cell) for kept in (thread.cells, thread.taken) for cell in kept.values())
    assert held < label_sets * 1024
    before = {key: id(cell) for key, cell in thread.taken.items()}
    assert recorder._buffer.take() == []
    assert {key: id(cell) for key, cell in thread.taken.items()} == before
    recorder.record(**{**LABELS, "persona": "p7", "config_version": 7}, latency_ms=5, ttft_ms=5)
    (item,) = recorder._buffer.take()
    assert (item["persona"], item["messages"], item["ttft"]["buckets"]) == ("p7", 1, {0: 1})


def test_label_sets_past_the_bound_are_counted_under_other(
    start: Callable[..., Running], recorder_for: Callable[..., Recorder], tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("{max_personas: 5000, max_series: 5000}")
    exporter = start(policy_file=tmp_path / "policy.yaml")
    recorder = recorder_for(exporter)
    for _ in range(2):
        for number in range(MAX_LABEL_SETS + 50):
            recorder.record(**{**LABELS, "persona": f"p{number}"}, latency_ms=5)
    assert recorder.flush(timeout=20)
    assert exporter.value("conversation_messages_total") == 2 * (MAX_LABEL_SETS + 50)
    assert exporter.value("conversation_messages_total", persona="other") == 100
    assert exporter.value("exporter_series") == MAX_LABEL_SETS + 1
