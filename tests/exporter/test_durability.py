"""Acknowledged means durable, whatever a crash, a full disk, a copy or a second exporter does."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from exporter.storage.journal import Fault
from tests.exporter.running import Clock, Process, Running, sample, series


def conversation(exporter: Any) -> str:
    """The part of a scrape that must survive."""
    return "".join(line + "\n" for line in exporter.scrape().splitlines() if line.startswith("conversation_"))


def push(number: int) -> dict[str, Any]:
    item = series(
        config_version=str(number % 3), messages=number, out_of_scope=1, llm_errors={"other": number - 1}
    )
    return {"client": "c", "epoch": 1, "seq": number, "series": [item | {"tokens": {"input": 7}}]}


def test_a_killed_exporter_goes_on_with_the_same_counts_and_the_same_journal(
    launch: Callable[..., Process],
) -> None:
    first = launch()
    for number in range(1, 8):
        assert first.post("/v1/push", push(number)).status_code == 200
    before = conversation(first)
    first.end(signal.SIGKILL)

    second = launch()
    assert conversation(second) == before
    assert sample(before, "conversation_messages_total") == sum(range(1, 8))
    retried = second.post("/v1/push", push(7)).json()["data"]
    assert retried["duplicate"] is True
    assert conversation(second) == before
    second.post("/v1/push", push(8))
    assert second.value("conversation_messages_total") == sum(range(1, 9))


def test_an_idempotency_key_survives_a_kill(launch: Callable[..., Process]) -> None:
    message = {"journey": "chat", "persona": "p", "config_version": "1", "outcome": "ok", "latency_ms": 1}
    answers = []
    for _ in range(2):
        exporter = launch()
        response = exporter.post("/v1/observations", [message], headers={"Idempotency-Key": "k"})
        answers.append(response.json()["data"]["duplicate"])
        assert exporter.value("conversation_messages_total") == 1
        exporter.end(signal.SIGKILL)
    assert answers == [False, True]


def test_a_graceful_stop_ends_with_0_and_keeps_everything(launch: Callable[..., Process]) -> None:
    first = launch()
    first.post("/v1/push", push(5))
    before = conversation(first)
    assert first.end(signal.SIGTERM) == 0
    assert first.event("exporter_stopped")
    assert conversation(launch()) == before


def test_counts_survive_a_compaction_and_the_journal_stays_small(
    start: Callable[..., Running], state_dir: Path
) -> None:
    exporter = start(compact_bytes=4096)
    for number in range(1, 200):
        assert exporter.post("/v1/push", push(number)).status_code == 200
    before = conversation(exporter)
    exporter.stop()
    assert (state_dir / "journal").stat().st_size < 12_000
    exporter = start()
    assert conversation(exporter) == before
    assert exporter.post("/v1/push", push(199)).json()["data"]["duplicate"] is True


def test_a_second_exporter_on_the_same_folder_refuses_to_start(launch: Callable[..., Process]) -> None:
    first = launch()
    second = launch()
    assert second.end() == 1
    refusal = second.event("exporter_cannot_start")
    assert refusal is not None
    assert "Another exporter" in refusal["reason"]
    assert requests.get(first.url + "/-/ready", timeout=10).status_code == 200


def test_a_torn_tail_is_reported_and_loses_nothing_acknowledged(
    launch: Callable[..., Process], state_dir: Path
) -> None:
    first = launch()
    first.post("/v1/push", push(5))
    before = conversation(first)
    first.end(signal.SIGKILL)
    with (state_dir / "journal").open("ab") as journal:
        journal.write(b"DBJ1\x00")
    second = launch()
    report = second.event("journal_recovered")
    assert report is not None
    assert (report["fault"], report["bytes_dropped"], report["level"]) == ("torn", 5, "warning")
    assert conversation(second) == before


def test_lost_records_start_a_new_journal_at_zero_with_the_same_label_sets(
    start: Callable[..., Running], state_dir: Path, clock: Clock
) -> None:
    exporter = start()
    for number in range(1, 4):
        exporter.post("/v1/push", push(number))
    journal = exporter.journal()
    exporter.stop()
    path = state_dir / "journal"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    clock.wait(50)
    for _ in range(2):
        exporter = start()
        assert exporter.journal() != journal
        assert journal not in exporter.scrape()
        assert exporter.value("conversation_messages_total", config_version="1") == 0
        assert exporter.value("conversation_created_timestamp_seconds", config_version="1") == clock.now
        # The third push was lost and counts again, the second was counted in the old journal's series.
        exporter.stop()
    exporter = start()
    assert exporter.post("/v1/push", push(2)).json()["data"]["duplicate"] is True
    assert exporter.post("/v1/push", push(3)).json()["data"]["duplicate"] is False
    assert exporter.value("conversation_messages_total") == 3
    assert len(list(state_dir.glob("journal.damaged-*"))) == 1


def remove(state_dir: Path) -> None:
    (state_dir / "journal").rename(state_dir.with_name("kept"))


def remove_the_folder(state_dir: Path) -> None:
    state_dir.rename(state_dir.with_name("kept"))


@pytest.mark.parametrize(
    ("harm", "undo"),
    [
        (remove, lambda state_dir: state_dir.with_name("kept").rename(state_dir / "journal")),
        (remove_the_folder, lambda state_dir: state_dir.with_name("kept").rename(state_dir)),
    ],
    ids=["the journal", "the folder"],
)
def test_a_journal_that_is_removed_under_the_exporter_is_noticed(
    exporter: Running,
    state_dir: Path,
    harm: Callable[[Path], None],
    undo: Callable[[Path], None],
) -> None:
    exporter.push(series(messages=1), seq=1)
    before = conversation(exporter)
    harm(state_dir)
    for _ in range(2):
        response = exporter.post("/v1/push", push(2))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_lost")
    assert requests.get(exporter.url + "/-/ready", timeout=10).status_code == 503
    assert conversation(exporter) == before
    assert exporter.value("exporter_rejected_total", reason="storage_lost") == 2
    undo(state_dir)
    assert exporter.post("/v1/push", push(2)).json()["data"]["duplicate"] is False
    assert exporter.value("conversation_messages_total") == 3
    assert requests.get(exporter.url + "/-/ready", timeout=10).status_code == 200


def test_a_removed_journal_makes_the_next_start_begin_anew_and_nothing_count_twice(
    start: Callable[..., Running], state_dir: Path
) -> None:
    exporter = start()
    exporter.push(series(messages=1), seq=1)
    journal = exporter.journal()
    (state_dir / "journal").unlink()
    assert exporter.post("/v1/push", push(2)).status_code == 503
    exporter.stop()
    exporter = start()
    assert exporter.journal() != journal
    assert exporter.post("/v1/push", push(2)).json()["data"]["duplicate"] is False
    assert exporter.value("conversation_messages_total") == 2
    assert exporter.value("exporter_journal_recoveries_total", fault="missing") == 1


def test_each_fault_is_counted_from_the_start_and_a_sound_journal_is_none(
    start: Callable[..., Running], state_dir: Path
) -> None:
    numbers = count(1)

    def found() -> dict[str, float | None]:
        exporter = start()
        name = "exporter_journal_recoveries_total"
        counts = {fault.value: exporter.value(name, fault=fault.value) for fault in Fault}
        for _ in range(2):
            exporter.push(series(messages=1), seq=next(numbers))
        exporter.stop()
        return counts

    path = state_dir / "journal"

    def copy() -> None:
        shutil.copy(path, state_dir / "copy")
        (state_dir / "copy").replace(path)

    none = dict.fromkeys((fault.value for fault in Fault), 0.0)
    assert found() == none | {"missing": 1}
    assert found() == none
    for harm, fault in (
        (lambda: path.write_bytes(path.read_bytes() + b"DBJ1\0"), "torn"),
        (lambda: path.write_bytes(path.read_bytes()[:-1] + b"?"), "damaged"),
        (copy, "copied"),
        (lambda: os.truncate(path, path.stat().st_size - 1), "set_back"),
    ):
        harm()
        assert found() == none | {fault: 1}


def test_a_copied_state_gets_a_journal_of_its_own(
    start: Callable[..., Running], launch: Callable[..., Process], state_dir: Path, tmp_path: Path
) -> None:
    original = launch()
    original.post("/v1/push", push(5))
    original.end(signal.SIGKILL)
    shutil.copytree(state_dir, tmp_path / "copy")
    copy, again = launch(tmp_path / "copy"), launch()
    assert copy.journal() != original_journal(again) == again.journal()
    assert copy.value("conversation_messages_total") == 0
    assert again.value("conversation_messages_total") == 5


def original_journal(exporter: Process) -> str:
    """The journal id in the log line of the start."""
    started = exporter.event("exporter_started")
    assert started is not None
    return str(started["journal"])


def test_a_full_disk_refuses_pushes_and_nothing_else(
    exporter: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter.push(series(messages=1), seq=1)
    before = conversation(exporter)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        response = exporter.post("/v1/push", push(2))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_full")
        assert int(response.headers["Retry-After"]) >= 1
    assert requests.get(exporter.url + "/-/ready", timeout=10).status_code == 503
    assert requests.get(exporter.url + "/-/healthy", timeout=10).status_code == 200
    assert conversation(exporter) == before
    assert exporter.value("exporter_pushes_total", result="failed") == 2
    assert exporter.post("/v1/push", push(1)).json()["data"]["duplicate"] is True

    monkeypatch.undo()
    assert exporter.post("/v1/push", push(2)).json()["data"]["duplicate"] is False
    assert exporter.value("conversation_messages_total") == 3
    assert requests.get(exporter.url + "/-/ready", timeout=10).status_code == 200
