"""Durable records: an append-only file in which every group of records has a checksum and one fsync.

The file is a sequence of frames. Each has a header (magic, length, checksum of the payload, checksum of the
header), all little-endian, and a payload: a time (double, Unix seconds) and records of (kind, length, bytes).
The first record of a frame is the running time (a double, see `clock.py`), which frames of format 1 lack.
A payload's checksum starts from the one before it, so that frames cannot be swapped, and a frame is on disk
before the next one is written. The first frame names the format, the journal id, the file's inode and its
generation, which is random; the second is a snapshot. `rewrite` makes a new such file, of another generation,
and puts it in place with one rename.

A frame cut short by the end of the file is the trace of a crash during a write that was not acknowledged as
succeeded: it is cut off, and the journal goes on. Any other damage means that acknowledged records are gone.
So does a file whose inode is not the one it was written with: it is a copy, perhaps an old one. So does a
file that lacks what the mark in `lock` says was written to it: an older copy was put back into it, or its end
is gone. All are reported, and the caller starts a new journal id.

The mark (generation, length and checksum of the journal after its last frame) is written behind every frame
and not synced: a crash of the machine may leave an older one, which the journal then still contains, or which
is of a generation that it replaced. Format 1 had no generations: there an inode stands for one.

The files are checked before every write, so a removed or replaced file is noticed while it is in use.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import msgspec

from exporter.errors import StateLockedError, StateUnusableError
from exporter.storage.clock import Moment

FORMAT = 2
READABLE_FORMATS = (1, FORMAT)
MAGIC = b"DBJ1"
_FRAME = struct.Struct("<4sII")
_CHECKSUM = struct.Struct("<I")
_FRAME_LENGTH = _FRAME.size + _CHECKSUM.size
_TIME = struct.Struct("<d")
_RECORD = struct.Struct("<cI")
_KIND_HEADER, _KIND_RUNNING = b"H", b"T"
_INODE = struct.Struct("<Q")
_MARK = struct.Struct("<8sQI")
KEPT_ASIDE = 8
"""Files that could not be trusted and are kept, the newest ones."""
_REPLACED = 16
"""How many generations a journal remembers to have replaced: more than a mark can be late by."""


class Record(NamedTuple):
    """A kind (one byte, the caller's) and its content."""

    kind: bytes
    body: bytes


class Fault(Enum):
    """What was found wrong with a journal when it was read."""

    MISSING = "missing"
    TORN = "torn"
    DAMAGED = "damaged"
    COPIED = "copied"
    SET_BACK = "set_back"

    @property
    def lost_records(self) -> bool:
        """Whether acknowledged records may be gone."""
        return self is not Fault.TORN


class Recovery(NamedTuple):
    """What `recover` read: the records in order with their times, and how far they could be trusted."""

    journal_id: str
    records: list[tuple[Moment, Record]]
    fault: Fault | None
    bytes_dropped: int

    @property
    def newest(self) -> Moment:
        """The latest of the times, each scale by itself; zeros without records."""
        moments = [moment for moment, _ in self.records]
        return Moment(
            max((moment.running for moment in moments), default=0.0),
            max((moment.unix for moment in moments), default=0.0),
        )


class _Frame(NamedTuple):
    """A group of records with its time, and the offset and the checksum after it."""

    records: list[tuple[Moment, Record]]
    end: int
    checksum: int


class _Header(msgspec.Struct):
    format: int
    journal: str
    inode: int
    generation: str = ""
    replaced: list[str] = []
    """The generations before, the latest last."""


class Journal:
    """The journal file of a state folder, held by a lock for as long as this object lives.

    Not thread-safe. Opening raises StateLockedError or StateUnusableError, writing raises OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"
        self._lock_path = folder / "lock"
        self._folder = folder
        self._fd: int | None = None
        self._header = _Header(FORMAT, "", 0)
        self._end = 0
        self._checksum = 0
        self._tail_is_dirty = False
        self._folder_is_dirty = False
        self.grown = 0
        """Bytes appended since the snapshot at the file's beginning."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateUnusableError(f"Cannot use the state folder {folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateLockedError(f"Another exporter runs on the state folder {folder}") from None

    def recover(self) -> Recovery:
        """Read the journal. With no fault or a torn tail it can be appended to; else call `rewrite` first."""
        try:
            content = self._path.read_bytes()
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            return Recovery("", [], Fault.MISSING, 0)
        except OSError as error:
            raise StateUnusableError(f"Cannot read {self._path}: {error.strerror}") from None
        frames, fault = _parse(content)
        records = [record for frame in frames for record in frame.records]
        end, checksum = frames[-1].end if frames else 0, frames[-1].checksum if frames else 0
        header = _decode_header(records, self._path)
        if header is None:
            return self._set_aside(Recovery("", [], Fault.DAMAGED, len(content)))
        recovery = Recovery(header.journal, records[1:], fault, len(content) - end)
        if fault is Fault.DAMAGED:
            return self._set_aside(recovery)
        if header.inode != inode:
            return self._set_aside(recovery._replace(fault=Fault.COPIED))
        if not self._contains_mark(header, frames):
            return self._set_aside(recovery._replace(fault=Fault.SET_BACK))
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StateUnusableError(f"Cannot write {self._path}: {error.strerror}") from None
        self._header = header
        self._end, self._checksum = end, checksum
        self._tail_is_dirty = fault is Fault.TORN
        self.grown = end
        return recovery

    def append(self, records: Sequence[Record], now: Moment) -> None:
        """Write one group of records and return when it is on disk. On OSError none of it is.

        ESTALE means that the journal or the lock is not the file any more that was opened.
        """
        if self._fd is None:
            raise StateUnusableError("The journal has not been recovered or rewritten")
        self._check_in_place(self._fd)
        self._repair()
        frame, checksum = _frame(records, now, self._checksum)
        try:
            _write(self._fd, frame, self._end)
            os.fdatasync(self._fd)
        except OSError:
            self._tail_is_dirty = True
            with contextlib.suppress(OSError):
                self._repair()
            raise
        self._end += len(frame)
        self._checksum = checksum
        self.grown += len(frame)
        self._write_mark()

    def rewrite(self, journal_id: str, snapshot: Record, now: Moment) -> None:
        """Replace the file by one that holds only `snapshot`. On OSError the old file is still in use."""
        if self._fd is not None:
            self._check_in_place(self._fd)
        temporary = self._path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            replaced = [*self._header.replaced, self._header.generation, self._marked_generation()]
            header = _Header(
                FORMAT,
                journal_id,
                os.fstat(fd).st_ino,
                secrets.token_hex(8),
                list(dict.fromkeys(filter(None, replaced)))[-_REPLACED:],
            )
            first, checksum = _frame([Record(_KIND_HEADER, msgspec.json.encode(header))], now, 0)
            second, checksum = _frame([snapshot], now, checksum)
            _write(fd, first + second, 0)
            os.fsync(fd)
            temporary.replace(self._path)
        except OSError:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        if self._fd is not None:
            os.close(self._fd)
        self._fd = fd
        self._header = header
        self._end, self._checksum = len(first) + len(second), checksum
        self._tail_is_dirty = False
        self._folder_is_dirty = True
        self.grown = 0
        self._repair()
        self._write_mark()
        with contextlib.suppress(OSError):
            os.fdatasync(self._lock)

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        os.close(self._lock)

    def _check_in_place(self, fd: int) -> None:
        """Raise OSError if the paths no longer lead to the open files, because writes would be lost.

        Without its lock the journal may be another exporter's by now. One that is too short lacks records.
        """
        for path, opened, length in ((self._path, fd, self._end), (self._lock_path, self._lock, 0)):
            try:
                there = path.stat()
            except FileNotFoundError:
                raise OSError(errno.ESTALE, "Removed while in use", str(path)) from None
            if not os.path.samestat(there, os.fstat(opened)) or there.st_size < length:
                raise OSError(errno.ESTALE, "Replaced while in use", str(path))

    def _repair(self) -> None:
        """Repair what a failure left: an unacknowledged tail, or a rename that is not on disk yet."""
        if self._tail_is_dirty and self._fd is not None:
            os.ftruncate(self._fd, self._end)
            os.fdatasync(self._fd)
            self._tail_is_dirty = False
        if self._folder_is_dirty:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._folder_is_dirty = False

    def _write_mark(self) -> None:
        """Note how far the journal has come. Without room for it the mark before stays, which also holds."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                mark = _MARK.pack(bytes.fromhex(self._header.generation), self._end, self._checksum)
                os.pwrite(self._lock, mark, 0)

    def _marked_generation(self) -> str:
        """The generation that the mark names, empty without a mark."""
        mark = self._mark()
        return mark[0].hex() if mark else ""

    def _contains_mark(self, header: _Header, frames: Sequence[_Frame]) -> bool:
        mark = self._mark()
        if mark is None:
            return True
        generation, end, checksum = mark
        if generation.hex() != header.generation:
            return generation.hex() in header.replaced
        return any((frame.end, frame.checksum) == (end, checksum) for frame in reversed(frames))

    def _mark(self) -> tuple[bytes, int, int] | None:
        """Generation, length and checksum as they were marked, None if they never were."""
        content = os.pread(self._lock, _MARK.size, 0)
        return _MARK.unpack(content) if len(content) == _MARK.size else None

    def _set_aside(self, recovery: Recovery) -> Recovery:
        """Keep a file that cannot be trusted for a person to look at, past `rewrite`.

        A start that fails later finds the same file again, and keeps it once. The newest files are kept.
        """
        kept = [path for fault in Fault for path in self._folder.glob(f"journal.{fault.value}-[0-9]*")]
        if recovery.fault is None or any(path.samefile(self._path) for path in kept):
            return recovery
        kept.sort(key=lambda path: path.name.rpartition("-")[2])
        try:
            for path in kept[: 1 - KEPT_ASIDE]:
                path.unlink()
            self._path.with_name(f"journal.{recovery.fault.value}-{time.time_ns()}").hardlink_to(self._path)
        except OSError as error:
            raise StateUnusableError(f"Cannot keep a link to {self._path}: {error.strerror}") from None
        return recovery


def _frame(records: Sequence[Record], now: Moment, previous: int) -> tuple[bytes, int]:
    parts = [_TIME.pack(now.unix)]
    for kind, body in (Record(_KIND_RUNNING, _TIME.pack(now.running)), *records):
        parts.append(_RECORD.pack(kind, len(body)))
        parts.append(body)
    payload = b"".join(parts)
    checksum = zlib.crc32(payload, previous)
    head = _FRAME.pack(MAGIC, len(payload), checksum)
    return head + _CHECKSUM.pack(zlib.crc32(head)) + payload, checksum


def _parse(content: bytes) -> tuple[list[_Frame], Fault | None]:
    """All intact frames, and the fault of the rest."""
    frames: list[_Frame] = []
    offset = checksum = 0
    while offset < len(content):
        start = offset + _FRAME_LENGTH
        if start > len(content):
            return frames, Fault.TORN
        head = content[offset : offset + _FRAME.size]
        magic, length, expected = _FRAME.unpack(head)
        (of_head,) = _CHECKSUM.unpack_from(content, offset + _FRAME.size)
        if magic != MAGIC or zlib.crc32(head) != of_head:
            # A crash may leave room for a frame and nothing in it. Copies the rest: not for every frame.
            return frames, Fault.DAMAGED if content[offset:].strip(b"\0") else Fault.TORN
        payload = content[start : start + length]
        if len(payload) < length:
            return frames, Fault.TORN
        if zlib.crc32(payload, checksum) != expected:
            return frames, Fault.DAMAGED
        offset, checksum = start + length, expected
        frames.append(_Frame(_records(payload), offset, checksum))
    return frames, None


def _records(payload: bytes) -> list[tuple[Moment, Record]]:
    (unix,) = _TIME.unpack_from(payload)
    now = Moment(unix, unix)
    offset = _TIME.size
    records = []
    while offset < len(payload):
        kind, length = _RECORD.unpack_from(payload, offset)
        offset += _RECORD.size
        body = payload[offset : offset + length]
        offset += length
        if kind == _KIND_RUNNING:
            (running,) = _TIME.unpack(body)
            now = Moment(running, unix)
        else:
            records.append((now, Record(kind, body)))
    return records


def _decode_header(records: Sequence[tuple[Moment, Record]], path: Path) -> _Header | None:
    if not records or records[0][1].kind != _KIND_HEADER:
        return None
    header = msgspec.json.decode(records[0][1].body, type=_Header)
    if header.format not in READABLE_FORMATS:
        raise StateUnusableError(f"{path} has format {header.format}; this exporter reads up to {FORMAT}")
    if header.format == 1:
        header.generation = _INODE.pack(header.inode).hex()
    return header


def _write(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
