"""The Recorder against real exporters: each message arrives exactly once, no error reaches the caller."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from driftback import Recorder, latency_bounds
from driftback.recorder.buffer import LATENCY_SUM
from driftback.recorder.sender import Counts
from driftback.recorder.transport import Transport
from tests.exporter.running import TOKEN, Process, Running, served_by_two_workers, wait_for
from tests.support.stacks import free_port

NOBODY = "http://127.0.0.1:1"
LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": "1"}


def test_a_full_disk_of_the_exporter_costs_no_message(
    exporter: Running, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder.record(**LABELS, latency_ms=1.0)
    assert recorder.flush()
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        for _ in range(5):
            recorder.record(**LABELS, latency_ms=1.0)
        assert not recorder.flush(timeout=1)
        assert exporter.value("conversation_messages_total", **LABELS) == 1
    assert recorder.flush(timeout=30)
    assert exporter.value("conversation_messages_total", **LABELS) == 6
    assert exporter.value("exporter_client_dropped_total") == 0


def test_a_message_with_everything(exporter: Running, recorder: Recorder) -> None:
    recorder.record(**LABELS, latency_ms=812.0, ttft_ms=90.0, input_tokens=120, output_tokens=30)
    recorder.record(**LABELS, latency_ms=100.0, outcome="out_of_scope", input_tokens=5)
    recorder.record(**LABELS, latency_ms=30_000.0, outcome="llm_error", reason="timeout")
    recorder.record(**LABELS, latency_ms=20.0, outcome="llm_error")
    assert recorder.flush()
    assert exporter.value("conversation_messages_total", **LABELS) == 4
    assert exporter.value("conversation_out_of_scope_total", **LABELS) == 1
    assert exporter.value("conversation_llm_errors_total", reason="timeout", **LABELS) == 1
    assert exporter.value("conversation_llm_errors_total", reason="other", **LABELS) == 1
    assert exporter.value("conversation_latency_seconds_sum", **LABELS) == pytest.approx(30.932)
    assert exporter.value("conversation_latency_seconds_bucket", le="0.05", **LABELS) == 1
    assert exporter.value("conversation_latency_seconds_bucket", le="0.924", **LABELS) == 3
    assert exporter.value("conversation_time_to_first_token_seconds_count", **LABELS) == 1
    assert exporter.value("conversation_tokens_total", direction="input", **LABELS) == 125
    assert exporter.value("conversation_tokens_total", direction="output", **LABELS) == 30
    assert exporter.value("exporter_client_dropped_total") == 0


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16, np.int64, Fraction], ids=str)
def test_numbers_of_other_libraries_are_counted(
    exporter: Running, recorder: Recorder, number: Callable[[int], Any]
) -> None:
    numbers: dict[str, Any] = {"ttft_ms": number(250), "input_tokens": np.int64(3)}
    for _ in range(2):
        recorder.record(**LABELS, latency_ms=number(500), **numbers)
        assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=2, waiting=0, in_doubt=0, dropped=0)
    assert exporter.value("conversation_latency_seconds_sum", **LABELS) == 1.0
    assert exporter.value("conversation_time_to_first_token_seconds_sum", **LABELS) == 0.5
    assert exporter.value("conversation_tokens_total", direction="input") == 6


def test_many_small_numbers_of_single_precision_add_up_in_double_precision(
    exporter: Running, recorder: Recorder
) -> None:
    recorder.record(**LABELS, latency_ms=1e11)
    for _ in range(1000):
        recorder.record(**LABELS, latency_ms=cast(Any, np.float32(500)))
    assert recorder.flush()
    assert exporter.value("conversation_latency_seconds_sum", **LABELS) == 1e8 + 500


def test_what_cannot_be_written_is_counted_as_dropped_and_holds_up_nothing(
    exporter: Running, recorder_for: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_for(exporter, flush_interval=60)
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.flush()
    (thread,) = recorder._buffer._threads
    thread.cells[("chat", "concierge", "1"), "ok", "other"][LATENCY_SUM] += np.float32(1)
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.flush()
    recorder.record(**{**LABELS, "persona": "other one"}, latency_ms=5)
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=2, waiting=0, in_doubt=0, dropped=1)
    assert exporter.value("exporter_client_dropped_total") == 1
    assert "float32 is not JSON serializable" in caplog.text


def test_a_declared_label_set_is_exported_at_zero(exporter: Running, recorder: Recorder) -> None:
    recorder.declare(**LABELS)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total", **LABELS) == 0


def test_a_version_is_the_same_as_a_number_and_as_a_text(exporter: Running, recorder: Recorder) -> None:
    for version in (3, "3", 3):
        recorder.record(**{**LABELS, "config_version": version}, latency_ms=1)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total", config_version="3") == 3


def test_a_latency_on_a_bound_belongs_to_the_bucket_below_it(exporter: Running, recorder: Recorder) -> None:
    for bound in latency_bounds:
        recorder.record(**LABELS, latency_ms=bound * 1000)
    assert recorder.flush()
    for bound in latency_bounds:
        at_most = exporter.value("conversation_latency_seconds_bucket", le=str(bound))
        seconds = [b * 1000 / 1000.0 for b in latency_bounds]
        assert at_most == sum(bisect_left(latency_bounds, s) <= latency_bounds.index(bound) for s in seconds)


def test_the_background_thread_sends_without_being_asked(exporter: Running, recorder: Recorder) -> None:
    recorder.record(**LABELS, latency_ms=1)
    wait_for(lambda: exporter.value("conversation_messages_total") == 1)


def test_nothing_is_lost_while_the_exporter_is_away(
    launch: Callable[..., Process], recorder_for: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    recorder = recorder_for(f"http://127.0.0.1:{port}")
    with caplog.at_level(logging.INFO, "driftback"):
        for _ in range(500):
            recorder.record(**LABELS, latency_ms=5)
        assert not recorder.flush(timeout=0.2)
        wait_for(lambda: caplog.records)
        exporter = launch(EXPORTER_PORT=str(port))
        assert recorder.flush(timeout=20)
    assert exporter.value("conversation_messages_total") == 500
    assert exporter.value("exporter_client_dropped_total") == 0
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the exporter does not take pushes, will retry",
        "the exporter takes pushes again",
    ]


def test_a_killed_exporter_costs_no_message_and_counts_none_twice(
    launch: Callable[..., Process], recorder_for: Callable[..., Recorder]
) -> None:
    port = free_port()
    recorder = recorder_for(f"http://127.0.0.1:{port}", flush_interval=0.001)
    sent = 0
    for _ in range(3):
        exporter = launch(EXPORTER_PORT=str(port))
        for _ in range(200):
            recorder.record(**LABELS, latency_ms=5)
            sent += 1
            recorder.flush(timeout=0.001)
        exporter.end(signal.SIGKILL)
    exporter = launch(EXPORTER_PORT=str(port))
    assert recorder.flush(timeout=30)
    assert exporter.value("conversation_messages_total") == sent


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ms": -0.001},
        {"latency_ms": float("nan")},
        {"latency_ms": float("inf")},
        {"latency_ms": "1"},
        {"latency_ms": None},
        {"latency_ms": Decimal(1)},
        {"outcome": "fine"},
        {"outcome": None},
        {"outcome": ["ok"]},
        {"reason": "timeout"},
        {"ttft_ms": -1},
        {"ttft_ms": float("nan")},
        {"input_tokens": -1},
        {"output_tokens": float("nan")},
        {"output_tokens": "many"},
        {"persona": ""},
        {"persona": "p" * 129},
        {"persona": "a\0b"},
        {"persona": "\ud800"},
        {"persona": None},
        {"persona": ["list"]},
        {"journey": 7},
        {"config_version": 1.5},
        {"config_version": True},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_dropped_whole_and_reported(
    exporter: Running, recorder: Recorder, change: dict[str, Any]
) -> None:
    message = {**LABELS, "latency_ms": 5.0, "input_tokens": 3, **change}
    for _ in range(2):
        recorder.record(**message)
    recorder.record(**LABELS, latency_ms=5.0)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 1
    assert exporter.value("conversation_tokens_total", direction="input") == 0
    assert exporter.value("exporter_client_dropped_total") == 2
    assert exporter.value("exporter_pushes_total", result="rejected") == 0


def test_an_unknown_reason_is_counted_as_other(exporter: Running, recorder: Recorder) -> None:
    recorder.record(**LABELS, latency_ms=5.0, outcome="llm_error", reason="moon")
    assert recorder.flush()
    assert exporter.value("conversation_llm_errors_total", reason="other") == 1


def test_a_declaration_that_makes_no_sense_does_not_raise(recorder: Recorder) -> None:
    recorder.declare(journey="chat", persona="", config_version="1")
    assert recorder.flush()


def test_what_the_exporter_refuses_does_not_hold_up_the_rest(exporter: Running, recorder: Recorder) -> None:
    recorder.record(**LABELS, latency_ms=5)
    recorder.record(**{**LABELS, "journey": "moon"}, latency_ms=5)
    recorder.record(**{**LABELS, "journey": "guidance"}, latency_ms=5, outcome="out_of_scope")
    recorder.record(**{**LABELS, "persona": "other one"}, latency_ms=5)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 2
    assert recorder.flush()
    assert exporter.value("exporter_client_dropped_total") == 2


def test_who_counts_for_an_unknown_journey_is_told_once_which_ones_there_are(
    exporter: Running, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        recorder.record(**{**LABELS, "journey": "moon"}, latency_ms=5)
        assert recorder.flush()
    (told,) = [record.getMessage() for record in caplog.records]
    assert "Unknown journey 'moon'; allowed: ['chat', 'guidance'" in told
    assert "Count what its label policy allows, or change the policy" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"outcome": "fine"}, "outcome must be ok, out_of_scope, llm_error, and not 'fine'"),
        ({"reason": "timeout"}, "reason is for the outcome llm_error, and the outcome is ok"),
        ({"outcome": "llm_error", "reason": "moon"}, "a reason that is none of timeout, rate_limited"),
        ({"persona": ""}, "persona must be a text of 1 to 128 characters"),
        ({"config_version": 1.5}, "config_version must be a text of 1 to 128 characters"),
        ({"latency_ms": -1}, "latency_ms must be from 0 to"),
        ({"ttft_ms": -1}, "ttft_ms must be from 0 to"),
        ({"input_tokens": -1}, "input_tokens and output_tokens must be from 0"),
        ({"latency_ms": "1"}, "labels must be texts, times and tokens numbers"),
        ({"persona": ["list"]}, "labels must be texts, times and tokens numbers"),
    ],
    ids=str,
)
def test_who_counts_what_makes_no_sense_is_told_once_what_would(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, change: dict[str, Any], told: str
) -> None:
    for _ in range(3):
        recorder.record(**{**LABELS, "latency_ms": 5, **change})
    (line,) = [record.getMessage() for record in caplog.records]
    assert told in line
    assert "(said once)" in line


def test_a_wrong_token_loses_nothing(
    start: Callable[..., Running], recorder_for: Callable[..., Recorder]
) -> None:
    old = start(ingest_tokens="another-token-0123456789")
    port = int(old.url.rsplit(":", 1)[1])
    recorder = recorder_for(old)
    recorder.record(**LABELS, latency_ms=5)
    assert not recorder.flush(timeout=0.1)
    old.stop()
    exporter = start(port=port)
    assert recorder.flush(timeout=20)
    assert exporter.value("conversation_messages_total") == 1


def test_label_sets_are_declared_again_to_an_exporter_that_lost_its_state(
    launch: Callable[..., Process], recorder_for: Callable[..., Recorder], tmp_path: Path
) -> None:
    port = str(free_port())
    exporter = launch(tmp_path / "a", EXPORTER_PORT=port)
    recorder = recorder_for(exporter)
    recorder.declare(**LABELS)
    assert recorder.flush()
    exporter.end()
    exporter = launch(tmp_path / "b", EXPORTER_PORT=port)
    recorder.record(**{**LABELS, "persona": "other one"}, latency_ms=5)
    assert recorder.flush(timeout=20)
    assert recorder.flush(timeout=20)
    assert exporter.value("conversation_messages_total", **LABELS) == 0


@pytest.fixture
def release(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """One message's push is stuck until this is set."""
    stuck, release = threading.Event(), threading.Event()
    post = Transport._post

    def slow(transport: Transport, body: bytes) -> tuple[int, bytes]:
        stuck.set()
        release.wait()
        return post(transport, body)

    monkeypatch.setattr(Transport, "_post", slow)
    recorder.record(**LABELS, latency_ms=5)
    assert stuck.wait(10)
    return release


def test_record_returns_while_a_push_is_stuck(
    exporter: Running, recorder: Recorder, release: threading.Event
) -> None:
    for number in range(100):
        recorder.record(**{**LABELS, "config_version": number}, latency_ms=5)
        recorder.declare(**{**LABELS, "persona": str(number)})
    assert not release.is_set()
    release.set()
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 101


def test_after_close_messages_are_dropped_without_a_word_to_the_caller(
    exporter: Running, recorder: Recorder
) -> None:
    recorder.record(**LABELS, latency_ms=5)
    thread = recorder._thread
    assert recorder.close()
    recorder.record(**LABELS, latency_ms=5)
    recorder.declare(**{**LABELS, "persona": "late"})
    assert recorder.flush()
    assert recorder.close()
    assert exporter.value("conversation_messages_total") == 1
    assert thread is not None
    assert not thread.is_alive()
    assert recorder._thread is None


def test_what_is_acknowledged_only_just_when_a_recorder_is_closed_is_not_said_to_be_left(
    exporter: Running,
    recorder: Recorder,
    release: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def give_up(_: float) -> bool:
        release.set()
        return False

    monkeypatch.setattr(recorder, "flush", give_up)
    assert recorder.close(timeout=20)
    assert exporter.value("conversation_messages_total") == 1
    assert caplog.records == []


def test_a_context_closes_its_recorder(exporter: Running, recorder_for: Callable[..., Recorder]) -> None:
    with recorder_for(exporter, flush_interval=60) as recorder:
        recorder.record(**LABELS, latency_ms=5)
    assert exporter.value("conversation_messages_total") == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_counts_its_own_messages_only(exporter: Running, recorder: Recorder) -> None:
    for _ in range(3):
        recorder.record(**LABELS, latency_ms=5)
    child = os.fork()
    if child == 0:
        recorder.record(**LABELS, latency_ms=5)
        os._exit(0 if recorder.flush() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 4


SERVICE = """
import os
from contextlib import asynccontextmanager
from driftback import Recorder
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@asynccontextmanager
async def lifespan(app):
    url, token = os.environ["EXPORTER_URL"], os.environ["EXPORTER_TOKEN"]
    with Recorder(url, token=token, flush_interval=60) as app.state.recorder:
        yield

async def chat(request):
    async with request.app.state.recorder.message(journey="chat", persona="p", config_version=1):
        return PlainTextResponse(str(os.getpid()), headers={"Connection": "close"})

app = Starlette(routes=[Route("/", chat)], lifespan=lifespan)
"""


def test_the_workers_of_a_server_each_send_what_they_counted_before_they_end(
    exporter: Running, tmp_path: Path
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "service:app",
        "--port",
        str(port),
        "--workers",
        "2",
        "--no-access-log",
    ]
    sent = served_by_two_workers(command, port, tmp_path, exporter)
    assert exporter.value("conversation_messages_total") == sent


SCRIPT = """
import sys
from driftback import Recorder
from driftback.recorder import recorder as recorder_module
recorder_module.EXIT_SECONDS = 60  # however busy the disk is
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"starlette", "uvicorn", "msgspec", "pydantic", "prometheus_client", "sqlalchemy"}, loaded
recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=60)
recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
"""


def test_what_is_left_is_sent_at_exit_and_the_client_needs_no_server_package(exporter: Running) -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, exporter.url, TOKEN]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert exporter.value("conversation_messages_total") == 1


@pytest.fixture
def no_more_threads(exporter: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No thread can be started until this is undone, but the exporter's, which is there."""
    assert exporter

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refuse)
        yield limit


def test_a_thread_that_could_not_be_started_is_started_with_a_later_message(
    exporter: Running,
    recorder: Recorder,
    no_more_threads: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder.declare(**LABELS)
    for _ in range(3):
        recorder.record(**LABELS, latency_ms=5)
    recorder.record(**LABELS, latency_ms=5, outcome="llm_error", reason="moon")
    assert not recorder.flush(timeout=0.1)
    assert recorder.counts() == Counts(acknowledged=0, waiting=4, in_doubt=0, dropped=0)
    no_more_threads.undo()
    recorder.record(**LABELS, latency_ms=5)
    wait_for(lambda: recorder.counts() == Counts(acknowledged=5, waiting=0, in_doubt=0, dropped=0))
    assert exporter.value("conversation_messages_total") == 5
    assert caplog.text.count("can't start new thread") == 1


@pytest.mark.parametrize("ending", [Recorder.flush, Recorder.close])
def test_what_ends_a_recorder_tries_to_start_its_thread_again(
    exporter: Running,
    recorder: Recorder,
    no_more_threads: pytest.MonkeyPatch,
    ending: Callable[[Recorder], bool],
) -> None:
    recorder.record(**LABELS, latency_ms=5)
    no_more_threads.undo()
    assert ending(recorder)
    assert exporter.value("conversation_messages_total") == 1


@pytest.mark.usefixtures("no_more_threads")
def test_a_recorder_whose_thread_never_started_says_what_is_left(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    assert recorder.flush()
    recorder.record(**LABELS, latency_ms=5)
    assert not recorder.close(timeout=0.1)
    assert not recorder.close(timeout=0.1)
    assert not recorder.flush(timeout=0.1)
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.counts() == Counts(acknowledged=0, waiting=1, in_doubt=0, dropped=1)
    assert "closed with 1 messages that no exporter took" in caplog.text


PROCESSES = """
import sys
from driftback import Recorder
from driftback.recorder import recorder as recorder_module

recorder_module.EXIT_SECONDS = 60  # however busy the disk is
recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=60)

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def count(times):
    for _ in range(times):
        recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)

def count_with_a_recorder_of_its_own(times):
    global recorder
    recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=60)
    count(times)

def begin_another(times):
    child = multiprocessing.Process(target=count, args=(times,))
    child.start()
    child.join()
    count(times)

def fail(times):
    count(times)
    raise SystemExit(3)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[3])
    count(1)
    for target in (count, count_with_a_recorder_of_its_own, begin_another, fail):
        child = multiprocessing.Process(target=target, args=(10,))
        child.start()
        child.join()
        assert child.exitcode == (3 if target is fail else 0), child.exitcode
    with ProcessPoolExecutor(1) as pool:
        list(pool.map(count, [10]))
    pool = multiprocessing.Pool(1)
    pool.map(count, [10])
    pool.close()
    pool.join()
    count(1)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_made_by_multiprocessing_send_what_they_counted_before_they_end(
    exporter: Running, tmp_path: Path, method: str
) -> None:
    (tmp_path / "service.py").write_text(PROCESSES)
    # A process with threads that forks is warned of by Python 3.12 and later.
    ignored = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", ignored, "service.py", exporter.url, TOKEN, method]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert exporter.value("conversation_messages_total") == 2 + 7 * 10


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"flush_interval": 0}, "flush_interval"),
        ({"url": "127.0.0.1:9810"}, "url"),
        ({"url": "http://"}, "url"),
        ({"token": "a token with a line end\n"}, "token"),
        ({"token": "schlüssel"}, "token"),
    ],
    ids=str,
)
def test_only_the_constructor_raises(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Recorder(**{"url": "http://127.0.0.1:1", "token": TOKEN, **change})


def test_a_push_that_is_too_large_is_split_and_loses_nothing(
    start: Callable[..., Running], recorder_for: Callable[..., Recorder]
) -> None:
    exporter = start(max_body_bytes=1024)
    recorder = recorder_for(exporter.url)
    for number in range(40):
        recorder.record(journey="chat", persona=f"p{number}", config_version="1", latency_ms=1)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 40
    assert exporter.value("exporter_client_dropped_total") == 0
    assert (exporter.value("exporter_rejected_total", reason="body_too_large") or 0) > 0
