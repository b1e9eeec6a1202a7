"""The journal file: appended records are there again, and damage differs from an unfinished write."""

import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import StateLockedError, StateUnusableError
from exporter.storage.clock import Moment
from exporter.storage.journal import KEPT_ASIDE, Fault, Journal, Record, Recovery

EPOCH = 1_700_000_000.0


def at(number: float) -> Moment:
    """A moment whose two times differ."""
    return Moment(number / 2, EPOCH + number)


SNAPSHOT = Record(b"S", b"snapshot")
GROUPS = [[Record(b"P", b"one")], [Record(b"P", b"two"), Record(b"O", b"")], [Record(b"X", b"four" * 50)]]
RECORDS = [(at(1), SNAPSHOT)] + [(at(2 + i), record) for i, group in enumerate(GROUPS) for record in group]


def write(folder: Path) -> list[int]:
    """Write GROUPS and give the length of the file before each, and at the end."""
    journal = Journal(folder)
    journal.recover()
    journal.rewrite("id", SNAPSHOT, at(1))
    ends = [(folder / "journal").stat().st_size]
    for number, group in enumerate(GROUPS):
        journal.append(group, at(2 + number))
        ends.append((folder / "journal").stat().st_size)
    journal.close()
    return ends


def forget_mark(folder: Path) -> None:
    """As when the machine crashes before the mark is on disk."""
    (folder / "lock").write_bytes(b"")


def recover(folder: Path) -> Recovery:
    journal = Journal(folder)
    recovery = journal.recover()
    journal.close()
    return recovery


def test_what_was_appended_is_recovered_in_order_with_its_times(tmp_path: Path) -> None:
    write(tmp_path)
    assert recover(tmp_path) == Recovery("id", RECORDS, None, 0)


def test_an_empty_folder_is_reported_as_missing_state(tmp_path: Path) -> None:
    assert recover(tmp_path / "new") == Recovery("", [], Fault.MISSING, 0)


def test_a_file_cut_at_any_byte_keeps_every_whole_group(tmp_path: Path) -> None:
    ends = write(tmp_path)
    forget_mark(tmp_path)
    path = tmp_path / "journal"
    for cut in range(ends[-1], ends[0] - 1, -1):
        os.truncate(path, cut)
        recovery = recover(tmp_path)
        whole = sum(end <= cut for end in ends) - 1
        kept = sum(len(group) for group in GROUPS[:whole])
        assert recovery.records == RECORDS[: 1 + kept]
        assert recovery.fault is (None if cut in ends else Fault.TORN)
        assert recovery.bytes_dropped == cut - ends[whole]


def test_a_torn_tail_is_cut_off_before_the_next_group(tmp_path: Path) -> None:
    ends = write(tmp_path)
    forget_mark(tmp_path)
    os.truncate(tmp_path / "journal", ends[-1] - 1)
    journal = Journal(tmp_path)
    assert journal.recover().fault is Fault.TORN
    journal.append([Record(b"P", b"after")], at(9))
    journal.close()
    assert recover(tmp_path) == Recovery("id", [*RECORDS[:-1], (at(9), Record(b"P", b"after"))], None, 0)


def test_zeros_behind_the_last_group_are_a_torn_tail(tmp_path: Path) -> None:
    ends = write(tmp_path)
    os.truncate(tmp_path / "journal", ends[-1] + 4096)
    assert recover(tmp_path) == Recovery("id", RECORDS, Fault.TORN, 4096)


class Counted(bytes):
    """Content of a file that counts how many bytes were copied out of it."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        piece = super().__getitem__(place)
        self.copied += len(piece) if isinstance(place, slice) else 1
        return piece


@pytest.mark.parametrize("tail", [b"", bytes(4096)], ids=["sound", "with zeros behind it"])
def test_reading_copies_no_byte_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    write(tmp_path)
    journal = Journal(tmp_path)
    journal.recover()
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    for number in range(500):
        journal.append([Record(b"P", b"x" * 400)], at(9 + number))
    journal.close()
    content = Counted((tmp_path / "journal").read_bytes() + tail)
    monkeypatch.setattr(Path, "read_bytes", lambda _: content)
    assert len(recover(tmp_path).records) == len(RECORDS) + 500
    assert content.copied <= 2 * len(content)


def test_any_flipped_bit_is_found_and_everything_before_it_kept(tmp_path: Path) -> None:
    ends = write(tmp_path)
    path = tmp_path / "journal"
    sound = path.read_bytes()
    for position in range(ends[0], ends[-1]):
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        recovery = recover(tmp_path)
        whole = sum(end <= position for end in ends) - 1
        assert recovery.fault is Fault.DAMAGED
        assert recovery.records == RECORDS[: 1 + sum(len(group) for group in GROUPS[:whole])]
        (kept,) = tmp_path.glob("journal.damaged-*")
        assert kept.read_bytes() == damaged
        kept.unlink()


def test_exchanged_groups_are_damage(tmp_path: Path) -> None:
    a, b, c, _ = write(tmp_path)
    path = tmp_path / "journal"
    content = path.read_bytes()
    path.write_bytes(content[:a] + content[b:c] + content[a:b] + content[c:])
    recovery = recover(tmp_path)
    assert (recovery.fault, recovery.records) == (Fault.DAMAGED, RECORDS[:1])


@pytest.mark.parametrize("content", [b"not a journal", b"\xff" * 1000], ids=["short text", "noise"])
def test_a_file_that_is_no_journal_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content)
    recovery = recover(tmp_path)
    assert (recovery.fault, recovery.records, recovery.journal_id) == (Fault.DAMAGED, [], "")


def test_damage_is_found_again_as_long_as_the_file_is_not_rewritten(tmp_path: Path) -> None:
    ends = write(tmp_path)
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes()[: ends[-2] + 20] + b"noise" * 100)
    first = recover(tmp_path)
    assert first.fault is Fault.DAMAGED
    assert recover(tmp_path) == first


def test_starts_that_fail_keep_a_damaged_file_once(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"not a journal")
    for _ in range(3):
        assert recover(tmp_path).fault is Fault.DAMAGED
    assert len(list(tmp_path.glob("journal.damaged-*"))) == 1


def test_of_many_damaged_files_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "journal.backup-2024").touch()
    for number in range(KEPT_ASIDE + 3):
        (tmp_path / "journal").unlink(missing_ok=True)
        (tmp_path / "journal").write_text(str(number))
        recover(tmp_path)
    kept = {path.read_text() for path in tmp_path.glob("journal.damaged-*")}
    assert kept == {str(number) for number in range(3, KEPT_ASIDE + 3)}
    assert (tmp_path / "journal.backup-2024").exists()


def test_a_copy_is_recognised(tmp_path: Path) -> None:
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    recovery = recover(tmp_path / "b")
    assert (recovery.fault, recovery.records) == (Fault.COPIED, RECORDS)
    assert recover(tmp_path / "a").fault is None


def test_a_journal_that_lacks_what_was_acknowledged_is_told_from_a_torn_one(tmp_path: Path) -> None:
    ends = write(tmp_path)
    path = tmp_path / "journal"
    for cut in (ends[-1] - 1, ends[-2], ends[0]):
        os.truncate(path, cut)
        recovery = recover(tmp_path)
        whole = sum(end <= cut for end in ends) - 1
        assert recovery.fault is Fault.SET_BACK
        assert recovery.records == RECORDS[: 1 + sum(len(group) for group in GROUPS[:whole])]
        (kept,) = tmp_path.glob("journal.set_back-*")
        kept.unlink()


def test_an_older_copy_put_back_into_the_file_is_recognised(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "journal"
    older = path.read_bytes()
    journal = Journal(tmp_path)
    journal.recover()
    journal.append([Record(b"P", b"after the backup")], at(9))
    journal.close()
    inode = path.stat().st_ino
    path.write_bytes(older)
    assert path.stat().st_ino == inode
    assert recover(tmp_path).fault is Fault.SET_BACK


def test_a_mark_that_a_crash_left_behind_the_journal_holds(tmp_path: Path) -> None:
    write(tmp_path)
    lock = tmp_path / "lock"
    older = lock.read_bytes()
    journal = Journal(tmp_path)
    journal.recover()
    journal.append([Record(b"P", b"next")], at(9))
    lock.write_bytes(older)
    journal.close()
    assert recover(tmp_path).fault is None
    journal = Journal(tmp_path)
    journal.recover()
    journal.rewrite("id", SNAPSHOT, at(10))
    lock.write_bytes(older)
    journal.close()
    assert recover(tmp_path).fault is None


def rewrite_until_its_inode_comes_back(folder: Path) -> None:
    """Most file systems give it after two."""
    path = folder / "journal"
    inode = path.stat().st_ino
    journal = Journal(folder)
    journal.recover()
    for _ in range(9):
        journal.rewrite("id", SNAPSHOT, at(10))
        if path.stat().st_ino == inode:
            break
    journal.close()


def test_an_inode_that_comes_back_is_no_journal_that_was_set_back(tmp_path: Path) -> None:
    write(tmp_path)
    lock = tmp_path / "lock"
    older = lock.read_bytes()
    rewrite_until_its_inode_comes_back(tmp_path)
    lock.write_bytes(older)  # as when the machine crashes before later marks are on disk
    assert recover(tmp_path) == Recovery("id", [(at(10), SNAPSHOT)], None, 0)


def test_an_older_generation_put_back_into_an_inode_that_came_back_is_recognised(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "journal"
    older = path.read_bytes()
    rewrite_until_its_inode_comes_back(tmp_path)
    path.write_bytes(older)
    assert recover(tmp_path).fault in (Fault.SET_BACK, Fault.COPIED)


def removed(path: Path) -> None:
    path.unlink()


def replaced_by_a_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("journal", removed),
        ("journal", replaced_by_a_copy),
        ("journal", emptied),
        ("lock", removed),
        ("lock", replaced_by_a_copy),
    ],
)
def test_a_file_that_is_gone_while_in_use_takes_no_record(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    write(tmp_path)
    journal = Journal(tmp_path)
    journal.recover()
    kept = tmp_path / "kept"
    kept.hardlink_to(tmp_path / name)
    content = kept.read_bytes()
    harm(tmp_path / name)
    with pytest.raises(OSError, match="while in use") as raised:
        journal.append([Record(b"P", b"never acknowledged")], at(8))
    assert raised.value.errno == errno.ESTALE
    with pytest.raises(OSError, match="while in use"):
        journal.rewrite("id", SNAPSHOT, at(8))
    kept.write_bytes(content)
    kept.replace(tmp_path / name)
    journal.append([Record(b"P", b"x")], at(9))
    journal.close()
    assert recover(tmp_path) == Recovery("id", [*RECORDS, (at(9), Record(b"P", b"x"))], None, 0)


def test_a_format_of_a_newer_version_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.storage.journal.FORMAT", 3)
    write(tmp_path)
    monkeypatch.undo()
    before = (tmp_path / "journal").read_bytes()
    with pytest.raises(StateUnusableError, match="format 3"):
        recover(tmp_path)
    assert (tmp_path / "journal").read_bytes() == before


def write_format_1(folder: Path) -> None:
    """Write GROUPS as journals of format 1 were, by their description: frames without a running time."""
    folder.mkdir()
    with (folder / "journal").open("wb") as file:
        header = {"format": 1, "journal": "id", "inode": os.fstat(file.fileno()).st_ino}
        groups = [[Record(b"H", json.dumps(header).encode())], [SNAPSHOT], *GROUPS]
        checksum = 0
        for group, unix in zip(groups, (1.0, 1.0, 2.0, 3.0, 4.0), strict=True):
            records = [kind + struct.pack("<I", len(body)) + body for kind, body in group]
            payload = struct.pack("<d", unix) + b"".join(records)
            checksum = zlib.crc32(payload, checksum)
            head = b"DBJ1" + struct.pack("<II", len(payload), checksum)
            file.write(head + struct.pack("<I", zlib.crc32(head)) + payload)
        mark = struct.pack("<QQI", header["inode"], file.tell(), checksum)
    (folder / "lock").write_bytes(mark)


OF_FORMAT_1 = [(Moment(moment.unix - EPOCH, moment.unix - EPOCH), record) for moment, record in RECORDS]


def test_a_journal_of_format_1_goes_on(tmp_path: Path) -> None:
    write_format_1(tmp_path / "state")
    journal = Journal(tmp_path / "state")
    recovery = journal.recover()
    assert recovery == Recovery("id", OF_FORMAT_1, None, 0)
    assert recovery.newest == Moment(4.0, 4.0)
    journal.append([Record(b"P", b"next")], Moment(5.0, 70.0))
    journal.close()
    after = recover(tmp_path / "state")
    assert after == Recovery("id", [*OF_FORMAT_1, (Moment(5.0, 70.0), Record(b"P", b"next"))], None, 0)
    assert after.newest == Moment(5.0, 70.0)
    journal = Journal(tmp_path / "state")
    journal.recover()
    mark = (tmp_path / "state" / "lock").read_bytes()
    journal.rewrite("id", SNAPSHOT, at(10))
    journal.close()
    (tmp_path / "state" / "lock").write_bytes(mark)
    assert recover(tmp_path / "state") == Recovery("id", [(at(10), SNAPSHOT)], None, 0)


def test_a_journal_of_format_1_put_back_after_the_upgrade_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write_format_1(folder)
    older = (folder / "journal").read_bytes()
    rewrite_until_its_inode_comes_back(folder)
    (folder / "journal").write_bytes(older)
    assert recover(folder).fault in (Fault.SET_BACK, Fault.COPIED)


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(StateLockedError):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusableError):
        Journal(tmp_path / "file")


def test_only_the_owner_can_read_the_state(tmp_path: Path) -> None:
    write(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "journal").stat().st_mode & 0o777 == 0o600


def full_after(written: int) -> Callable[[int, memoryview, int], int]:
    """A `pwrite` on a disk with so many bytes left."""
    room = written
    pwrite = os.pwrite

    def limited(fd: int, content: memoryview, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = pwrite(fd, content[:room], offset)
        room -= count
        return count

    return limited


@pytest.mark.parametrize("room", [0, 1, 40, 100])
def test_a_group_that_did_not_fit_on_the_disk_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    write(tmp_path)
    before = (tmp_path / "journal").read_bytes()
    journal = Journal(tmp_path)
    journal.recover()
    monkeypatch.setattr(os, "pwrite", full_after(room))
    with pytest.raises(OSError, match="No space"):
        journal.append([Record(b"P", b"x" * 200)], at(8))
    assert (tmp_path / "journal").read_bytes() == before
    monkeypatch.undo()
    journal.append([Record(b"P", b"later")], at(9))
    journal.close()
    assert recover(tmp_path) == Recovery("id", [*RECORDS, (at(9), Record(b"P", b"later"))], None, 0)


def test_a_group_whose_fsync_failed_is_taken_back_even_if_only_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    write(tmp_path)
    journal = Journal(tmp_path)
    journal.recover()
    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(os, "ftruncate", broken)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            journal.append([Record(b"P", b"never acknowledged")], at(8))
    monkeypatch.undo()
    journal.append([Record(b"P", b"x")], at(9))
    journal.close()
    assert recover(tmp_path) == Recovery("id", [*RECORDS, (at(9), Record(b"P", b"x"))], None, 0)


def test_a_rewrite_replaces_everything(tmp_path: Path) -> None:
    write(tmp_path)
    journal = Journal(tmp_path)
    journal.recover()
    journal.rewrite("id", Record(b"S", b"all of it"), at(7))
    journal.append([Record(b"P", b"next")], at(8))
    journal.close()
    assert recover(tmp_path) == Recovery(
        "id", [(at(7), Record(b"S", b"all of it")), (at(8), Record(b"P", b"next"))], None, 0
    )


def test_a_rewrite_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    journal = Journal(tmp_path)
    journal.recover()
    monkeypatch.setattr(os, "pwrite", full_after(60))
    with pytest.raises(OSError, match="No space"):
        journal.rewrite("id", Record(b"S", b"x" * 100), at(7))
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"journal", "lock"}
    journal.append([Record(b"P", b"next")], at(8))
    journal.close()
    assert recover(tmp_path) == Recovery("id", [*RECORDS, (at(8), Record(b"P", b"next"))], None, 0)


def test_appending_to_a_journal_that_must_be_rewritten_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover()
    with pytest.raises(StateUnusableError):
        journal.append([SNAPSHOT], at(1))
    journal.close()
