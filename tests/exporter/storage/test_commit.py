"""Group commit: nothing is acknowledged or shown before it is on disk, and one write is for many."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.exporter.running import Running, wait_for
from tests.exporter.test_durability import push


class SlowDisk:
    """An `fdatasync` that waits until it is let go, and can fail once on request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.release, self.fails_once = threading.Event(), threading.Event(), False
        self._fdatasync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, fd: int) -> None:
        self.entered.set()
        self.release.wait()
        if self.fails_once:
            self.fails_once = False
            raise OSError(errno.EIO, "Input/output error")
        self._fdatasync(fd)


@pytest.fixture
def slow_disk(exporter: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.release.set()


def in_background(call: Callable[[], requests.Response]) -> tuple[threading.Thread, list[requests.Response]]:
    answers: list[requests.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_nothing_is_acknowledged_or_shown_before_it_is_on_disk(
    exporter: Running, slow_disk: SlowDisk
) -> None:
    thread, answers = in_background(lambda: exporter.post("/v1/push", push(3)))
    assert slow_disk.entered.wait(10)
    assert exporter.value("conversation_messages_total") is None
    assert not answers
    slow_disk.release.set()
    thread.join()
    assert answers[0].status_code == 200
    assert exporter.value("conversation_messages_total") == 3


def test_a_retry_that_overtakes_the_disk_waits_for_it_and_counts_once(
    exporter: Running, slow_disk: SlowDisk
) -> None:
    thread, answers = in_background(lambda: exporter.post("/v1/push", push(3)))
    assert slow_disk.entered.wait(10)
    retry, retried = in_background(lambda: exporter.post("/v1/push", push(3)))
    exporter.wait_for_requests(2)
    assert exporter.value("exporter_pushes_total", result="duplicate") == 0
    assert not retried
    slow_disk.release.set()
    thread.join()
    retry.join()
    assert sorted(a.json()["data"]["duplicate"] for a in answers + retried) == [False, True]
    assert exporter.value("conversation_messages_total") == 3


def test_a_failed_write_fails_what_waits_behind_it_and_the_retries_count_once(
    exporter: Running, slow_disk: SlowDisk
) -> None:
    slow_disk.fails_once = True
    calls = [in_background(lambda: exporter.post("/v1/push", push(3)))]
    assert slow_disk.entered.wait(10)
    other = {**push(1), "client": "d"}
    calls += [in_background(partial(exporter.post, "/v1/push", body)) for body in (push(3), other)]
    exporter.wait_for_requests(3)
    slow_disk.release.set()
    for thread, _ in calls:
        thread.join()
    assert {answers[0].status_code for _, answers in calls} == {503}
    assert exporter.value("conversation_messages_total") is None

    assert exporter.post("/v1/push", push(3)).json()["data"]["duplicate"] is False
    assert exporter.post("/v1/push", other).json()["data"]["duplicate"] is False
    assert exporter.value("conversation_messages_total") == 4


def test_a_defect_in_the_writer_is_an_error_and_not_a_silence(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("exporter.storage.state.State.apply_push", defective)
    response = exporter.post("/v1/push", push(1))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_failed")
    assert requests.get(exporter.url + "/-/ready", timeout=10).status_code == 503
    assert exporter.post("/v1/push", push(1)).status_code == 503
    assert requests.get(exporter.url + "/metrics", timeout=10).status_code == 200


def test_pushes_that_come_together_share_a_write(
    exporter: Running, slow_disk: SlowDisk, state_dir: Path
) -> None:
    calls = [in_background(lambda: exporter.post("/v1/push", push(1)))]
    assert slow_disk.entered.wait(10)
    size = (state_dir / "journal").stat().st_size
    bodies = [{**push(1), "client": f"client {n}"} for n in range(10)]
    calls += [in_background(partial(exporter.post, "/v1/push", body)) for body in bodies]
    exporter.wait_for_requests(11)
    slow_disk.release.set()
    for thread, _ in calls:
        thread.join()
    written = (state_dir / "journal").read_bytes()[size:]
    assert written.count(b"client ") == 10
    assert written.count(b"DBJ1") == 1
    assert exporter.value("conversation_messages_total") == 11


def test_more_than_may_wait_for_the_disk_is_refused_and_may_come_later(
    exporter: Running, slow_disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.storage.commit.MAX_WAITING_BYTES", 10)
    bodies = [{**push(1), "client": name} for name in "abc"]
    threads, answers = zip(
        *(in_background(partial(exporter.post, "/v1/push", b)) for b in bodies), strict=True
    )
    wait_for(lambda: any(answers) and sum(map(len, answers)) + exporter.being_answered() == 3)
    refused = [answer[0] for answer in answers if answer]
    assert refused
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_busy")
    slow_disk.release.set()
    for thread in threads:
        thread.join()
    for body in bodies:
        assert exporter.post("/v1/push", body).status_code == 200
    assert exporter.value("conversation_messages_total") == 3
