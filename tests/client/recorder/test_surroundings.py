"""The Recorder under signals, under eventlet, with any URL, with exceptions that nobody thought of."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import driftback
from driftback import Recorder
from driftback.recorder.buffer import Buffer
from driftback.recorder.sender import Counts, Sender
from driftback.recorder.transport import Transport
from tests.exporter.running import TOKEN, Running, wait_for

CLIENT_FOLDER = Path(driftback.__file__).parent
LABELS: dict[str, Any] = {"journey": "chat", "persona": "p", "config_version": "1"}


def run(tmp_path: Path, script: str, *arguments: str, warnings: str = "error") -> str:
    """Run a service in a process of its own; what it printed."""
    (tmp_path / "service.py").write_text(script)
    command = [sys.executable, "-W", warnings, "service.py", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


SIGNALS = """
import itertools, json, signal, sys, threading, time
from driftback import Recorder
from driftback.contract import SeriesDelta

calls, numbers = 0, itertools.count()
recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=0.02)

def count(*_):
    global calls
    calls += 2
    labels = {"journey": "chat", "persona": f"p{next(numbers) % 40}", "config_version": 1}
    recorder.declare(**labels)
    recorder.record(**labels, latency_ms=5)
    recorder.record(**labels, latency_ms=-1)

signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0002)
for _ in range(2000):
    count()
signal.setitimer(signal.ITIMER_REAL, 0)
assert recorder.flush(60)
while sum(thread.name == "driftback-recorder" for thread in threading.enumerate()) > 1:
    time.sleep(0.01)  # a second one ends at once
print(json.dumps([calls, list(recorder.counts())]))
"""


def test_messages_counted_in_a_signals_handler_are_counted_once_like_all(
    exporter: Running, tmp_path: Path
) -> None:
    calls, counts = json.loads(run(tmp_path, SIGNALS, exporter.url, TOKEN))
    assert counts == [calls / 2, 0, 0, calls / 2]
    assert exporter.value("conversation_messages_total") == calls / 2


@pytest.mark.parametrize("moment", ["__init__", "start"])
def test_a_declaration_while_the_first_starts_the_thread_starts_no_second_one(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before = set(threading.enumerate())
    whole = getattr(threading.Thread, moment)

    def interrupted(thread: threading.Thread, *arguments: Any, **named: Any) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGUSR1)
        whole(thread, *arguments, **named)

    def declare(*_: object) -> None:
        recorder.declare(**LABELS)

    handler = signal.signal(signal.SIGUSR1, declare)
    try:
        with Recorder(exporter.url, TOKEN, flush_interval=60) as recorder:
            monkeypatch.setattr(threading.Thread, moment, interrupted)
            recorder.declare(**LABELS)
            recorder.record(**LABELS, latency_ms=5)
            assert recorder.flush()

            def senders() -> int:
                return sum(
                    thread.name == "driftback-recorder" for thread in set(threading.enumerate()) - before
                )

            wait_for(lambda: senders() == 1)  # a second one ends at once
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert exporter.value("conversation_messages_total") == 1


def test_a_handler_that_raises_while_the_thread_is_started_costs_no_message(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: threading.Thread) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with Recorder(exporter.url, TOKEN, flush_interval=0.02) as recorder:
        monkeypatch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recorder.declare(**LABELS)
        recorder.record(**LABELS, latency_ms=5)
        wait_for(lambda: recorder.counts().acknowledged == 1)


def _counting(recorder: Recorder) -> None:
    """Count four messages, with all that a service does."""
    recorder.record(**LABELS, latency_ms=5)
    recorder.declare(**{**LABELS, "persona": "declared"})
    recorder.record(**LABELS, latency_ms=5, ttft_ms=1)
    recorder.record(**LABELS, latency_ms=-1)
    recorder.flush(60)
    recorder.counts()
    recorder.record(**{**LABELS, "persona": "another"}, latency_ms=5, outcome="llm_error", reason="moon")
    recorder.close(60)


def _interrupt_at_lines(work: Callable[[], None], at: Callable[[tuple[str, int]], None]) -> None:
    """Do the work, and call `at` before each line of the client that it comes to, as a signal may."""

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if Path(frame.f_code.co_filename).parent.parent != CLIENT_FOLDER:
            return None
        if event == "line":
            at((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)


def test_a_handler_that_closes_at_any_line_neither_hangs_nor_loses_nor_counts_twice(
    exporter: Running,
) -> None:
    def recorder() -> Recorder:
        return Recorder(exporter.url, TOKEN, flush_interval=60)

    lines: dict[tuple[str, int], None] = {}
    _interrupt_at_lines(partial(_counting, recorder()), lambda line: lines.setdefault(line))
    assert len(lines) > 100
    acknowledged = exporter.value("conversation_messages_total") or 0.0
    for line in lines:
        closing = recorder()
        waited = _close_at(line, closing)
        assert waited < 20, f"it hung at {line}"
        counts = closing.counts()
        assert (sum(counts), counts.in_doubt) == (4, 0)
        assert counts.waiting <= 1, "the one that was being counted"
        acknowledged += counts.acknowledged
        assert exporter.value("conversation_messages_total") == acknowledged


def _close_at(line: tuple[str, int], recorder: Recorder) -> float:
    """Close in a handler before this line; how many seconds that took."""
    waits: list[float] = []

    def close(now: tuple[str, int]) -> None:
        if now == line and not waits:
            begun = time.monotonic()
            waits.append(0.0)
            recorder.close(20)
            waits[0] = time.monotonic() - begun

    _interrupt_at_lines(partial(_counting, recorder), close)
    return waits[0]


EVENTLET = """
import eventlet
eventlet.monkey_patch()
import sys, time
from driftback import Recorder
from driftback.contract import SeriesDelta

recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=0.05)
for number in range(1, 6):
    recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
    while recorder.counts().acknowledged < number:
        time.sleep(0.01)
assert recorder.close(60)
"""


def test_it_goes_on_sending_under_eventlet(exporter: Running, tmp_path: Path) -> None:
    run(tmp_path, EVENTLET, exporter.url, TOKEN, warnings="ignore")
    assert exporter.value("conversation_messages_total") == 5


class UnheardOfError(Exception):
    """One that no part of the client expects."""


def fail(*_: object, **__: object) -> None:
    raise UnheardOfError


@pytest.mark.parametrize("method", ["_send_all", "_settle_doubt"])
def test_a_delivery_that_fails_anyhow_is_not_tried_again_at_once(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    buffer = Buffer()
    sender = Sender([exporter.url], TOKEN, buffer)
    buffer.make_cell(("chat", "p", 1, "ok", None))
    monkeypatch.setattr(Transport, "_post", fail)
    assert not sender.deliver()
    assert sender.counts() == Counts(acknowledged=0, waiting=0, in_doubt=0, dropped=0)
    for stream in sender._streams:
        stream.due = 0.0  # the pause is over
    with monkeypatch.context() as broken:
        broken.setattr(Sender, method, fail)
        with pytest.raises(UnheardOfError):
            sender.deliver()
    assert sender.pause(60.0) > 0
    sender.close()


CELERY = """
import os
from driftback import Recorder
from driftback.contract import SeriesDelta
options = {"url": os.environ["EXPORTER_URL"], "token": os.environ["EXPORTER_TOKEN"], "flush_interval": 60}
early = Recorder(**options)

from celery import Celery
from driftback.recorder import recorder as recorder_module
recorder_module.EXIT_SECONDS = 60  # however busy the machine is
recorder_module.CHILD_SECONDS = 60  # it is Celery's signal that is looked at here
app = Celery("service", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}
own = []

@app.task
def answer():
    if not own:
        own.append(Recorder(**options))
    for recorder in (early, own[0]):
        recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
"""


def test_children_of_celery_that_are_replaced_send_what_they_counted(
    exporter: Running, tmp_path: Path
) -> None:
    (tmp_path / "service.py").write_text(CELERY)
    (tmp_path / "queue").mkdir()
    environment = {**os.environ, "EXPORTER_URL": exporter.url, "EXPORTER_TOKEN": TOKEN}
    send = "from service import answer\nfor _ in range(40): answer.delay()"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, timeout=60, check=True)
    options = ["--concurrency=4", "--max-tasks-per-child=5", "--pool=prefork", "--loglevel=ERROR"]
    command = [sys.executable, "-m", "celery", "-A", "service", "worker", *options]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: exporter.value("conversation_messages_total") == 80, seconds=120)
        finally:
            worker.terminate()
            worker.wait(timeout=60)


FORK = """
import os, sys, time
from driftback import Recorder
from driftback.contract import SeriesDelta

recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=3600)
child = os.fork()
if child == 0:
    recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
    deadline = time.monotonic() + 60
    while not recorder.counts().acknowledged and time.monotonic() < deadline:
        time.sleep(0.01)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_forked_child_sends_soon_for_it_may_end_without_a_word(exporter: Running, tmp_path: Path) -> None:
    run(tmp_path, FORK, exporter.url, TOKEN)
    assert exporter.value("conversation_messages_total") == 1


BILLIARD = """
import sys
import billiard
from billiard.pool import Pool
from driftback import Recorder
from driftback.contract import SeriesDelta
from driftback.recorder import recorder as recorder_module

recorder_module.EXIT_SECONDS = 60  # however busy the disk is
recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=60)

def answer(_):
    recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)

if __name__ == "__main__":
    pool = Pool(4, maxtasksperchild=5, on_process_exit=lambda *_: recorder.close())
    pool.map(answer, range(40), chunksize=1)
    child = billiard.Process(target=answer, args=(0,))
    child.start()
    child.join()
    pool.close()
    pool.join()
"""


def test_children_of_billiard_send_what_they_counted(exporter: Running, tmp_path: Path) -> None:
    run(tmp_path, BILLIARD, exporter.url, TOKEN, warnings="ignore")
    assert exporter.value("conversation_messages_total") == 41
