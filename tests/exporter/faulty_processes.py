"""Exporters and clients made to be killed: real processes, forked from one that has imported everything.

A fork takes 10 ms where a new interpreter takes half a second, so that a test can kill hundreds of them.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from driftback import Recorder
from driftback.recorder import stream as stream_module
from driftback.recorder.sender import Sender
from driftback.recorder.stream import Stream
from driftback.recorder.transport import Answer, Transport, Verdict

PERSONAS = "ab"
VERSIONS = (1, 2, 3)

_context = multiprocessing.get_context("forkserver")
# pytest itself too: each child would import it as the module of its parent's script.
_context.set_forkserver_preload(["exporter.__main__", "pytest", __name__])


def start_exporter(environment: dict[str, str], log: Path) -> BaseProcess:
    """What `python -m exporter` runs, with these variables; its log lines are added to a file."""
    return _start(_run_exporter, environment, log)


def start_client(url: str, token: str, notes: Path) -> BaseProcess:
    """A service under load, which notes each push in a file before it is sent, and then its answer.

    What a process wrote stays when it is killed, so the file says exactly what may and what must be counted.
    """
    return _start(_record_for_ever, url, token, notes)


def start_counting_client(urls: list[str], token: str, stop: Path, report: Path) -> BaseProcess:
    """A service under load with several exporters, until there is a file `stop`; it then flushes and reports.

    The report holds what it recorded, the Recorder's counts, how many pushes it tried again because their
    outcome was unknown, and how often it changed the exporter.
    """
    return _start(_record_until, urls, token, stop, report)


def _start(target: Any, *arguments: Any) -> BaseProcess:
    process = _context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _run_exporter(environment: dict[str, str], log: Path) -> None:
    os.dup2(_append_to(log), sys.stderr.fileno())
    os.environ.update(environment)
    sys.argv = ["exporter"]  # the fork has pytest's
    from exporter.__main__ import main

    sys.exit(main())


def _record_for_ever(url: str, token: str, notes: Path) -> None:
    random.seed()  # or all children would draw what their parent would have drawn
    fd = _append_to(notes)
    send = Transport.send

    def noted_send(self: Transport, body: bytes) -> Answer:
        os.write(fd, b"> " + body + b"\n")
        answer = send(self, body)
        if answer.verdict is Verdict.ACKNOWLEDGED:
            os.write(fd, b"< " + body + b"\n")
        return answer

    Transport.send = noted_send  # type: ignore[method-assign]
    recorder = _eager_recorder(url, token)
    while True:
        _record_some(recorder)


def _record_until(urls: list[str], token: str, stop: Path, report: Path) -> None:
    random.seed()
    happened: Counter[str] = Counter()
    retry, stick_to = Stream.retry, Sender._stick_to

    def counted_retry(self: Stream) -> Answer:
        happened["retries"] += 1
        return retry(self)

    def counted_stick_to(self: Sender, stream: Stream) -> None:
        happened["failovers"] += stream is not self._streams[0]
        stick_to(self, stream)

    Stream.retry = counted_retry  # type: ignore[method-assign]
    Sender._stick_to = counted_stick_to  # type: ignore[method-assign]
    recorder = _eager_recorder(urls, token)
    recorded = 0
    while not stop.exists():
        recorded += _record_some(recorder)
    flushed = recorder.flush(timeout=60)
    counts = recorder.counts()._asdict()
    report.write_text(json.dumps({"recorded": recorded, "flushed": flushed, **counts, **happened}))


def _eager_recorder(urls: str | list[str], token: str) -> Recorder:
    # Else it would spend the time between two kills waiting.
    stream_module.FIRST_BACK_OFF_SECONDS = 0.01  # type: ignore[misc]
    stream_module.LONGEST_BACK_OFF_SECONDS = 0.05  # type: ignore[misc]
    return Recorder(urls, token, flush_interval=0.02)


def _record_some(recorder: Recorder, messages: int = 20) -> int:
    for _ in range(messages):
        recorder.record(
            journey="chat",
            persona=random.choice(PERSONAS),
            config_version=random.choice(VERSIONS),
            latency_ms=random.uniform(1, 1000),
            outcome=random.choice(["ok", "ok", "out_of_scope", "llm_error"]),
            input_tokens=3,
        )
    time.sleep(0.005)
    return messages


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
