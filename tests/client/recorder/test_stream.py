"""The numbered pushes to one exporter: each attempt may fail, and each number counts once."""

import http.client
import json
import selectors
from collections.abc import Callable
from typing import Any

import pytest

from driftback import Recorder
from driftback.contract import SeriesDelta
from driftback.recorder.sender import Counts
from driftback.recorder.stream import Parcel, Stream
from driftback.recorder.transport import Transport, Verdict
from tests.exporter.running import TOKEN, Running, wait_for

LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": "1"}


def test_a_push_that_could_not_be_made_ready_waits(
    exporter: Running, recorder_for: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    recorder = recorder_for(exporter, flush_interval=60)
    recorder.record(**LABELS, latency_ms=5)
    with monkeypatch.context() as memory:
        memory.setattr(json, "dumps", no_memory)
        assert not recorder.flush(timeout=0.1)
        wait_for(lambda: recorder.counts() == Counts(acknowledged=0, waiting=1, in_doubt=0, dropped=0))
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=1, waiting=0, in_doubt=0, dropped=0)


def test_a_lost_answer_is_retried_with_the_same_bytes_and_counted_once(
    exporter: Running, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Transport._post
    bodies = []

    def lossy(transport: Transport, body: bytes) -> tuple[int, bytes]:
        bodies.append(body)
        answer = post(transport, body)
        if len(bodies) < 3:
            raise TimeoutError
        return answer

    monkeypatch.setattr(Transport, "_post", lossy)
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.flush(timeout=20)
    assert bodies[0] == bodies[1] == bodies[2]
    assert exporter.value("conversation_messages_total") == 1
    assert exporter.value("exporter_pushes_total", result="duplicate") == 2


class UnheardOfError(Exception):
    """One that no part of the client expects."""


def fail(*_: object, **__: object) -> None:
    raise UnheardOfError


@pytest.mark.parametrize(
    ("where", "what", "in_doubt"),
    [
        (selectors, "DefaultSelector", False),
        (http.client.HTTPConnection, "connect", False),
        (http.client.HTTPConnection, "request", True),
        (http.client.HTTPConnection, "getresponse", True),
        (Transport, "_post", True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_exception_that_nobody_thought_of_is_a_try_that_failed(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, where: Any, what: str, in_doubt: bool
) -> None:
    stream = Stream(exporter.url, TOKEN)
    item = SeriesDelta(
        journey="chat",
        persona="p",
        config_version="1",
        messages=1,
        latency={"sum": 0.1, "buckets": {1: 1}},
    )
    if what == "DefaultSelector":  # asked about a connection that is there
        assert stream.send(Parcel([])).verdict is Verdict.ACKNOWLEDGED
    with monkeypatch.context() as broken:
        broken.setattr(where, what, fail)
        answer = stream.send(Parcel([item]))
    assert answer.verdict is (Verdict.UNKNOWN if in_doubt else Verdict.NOT_TAKEN)
    assert answer.reason == "UnheardOfError"
    assert (stream.in_doubt is not None) is in_doubt
    assert not stream.is_due()
    again = stream.retry() if in_doubt else stream.send(Parcel([item]))
    assert again.verdict is Verdict.ACKNOWLEDGED
    assert exporter.value("conversation_messages_total") == 1
    stream.close()
