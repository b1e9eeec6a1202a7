"""Group commit: what arrives while the disk is busy is written together, with one fsync for all.

Counts become visible only when they are on disk. So a scrape never shows a number that a crash could take
back.

Callbacks and not a task: beside a scrape every turn of the event loop takes as long as a piece of it, and a
task that waits takes two turns more.
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from exporter.errors import (
    StorageBusyError,
    StorageError,
    StorageFailedError,
    StorageFullError,
    StorageLostError,
)
from exporter.storage.clock import JournalClock, Moment
from exporter.storage.journal import Journal, Record

MAX_WAITING_BYTES = 64 * 1024 * 1024

T = TypeVar("T")

_log = structlog.get_logger("exporter.storage.commit")


class _Group:
    """Records that are written together, and the callbacks for when they are on disk."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.size = 0
        self._applies: list[Callable[[Moment], Any]] = []
        self._waiters: list[asyncio.Future[Any]] = []

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.size += len(record.body)

    def then(self, apply: Callable[[Moment], T], waiter: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Call `apply` when the group is on disk; `waiter` takes its result."""
        self._applies.append(apply)
        self._waiters.append(waiter)
        return waiter

    def apply(self, now: Moment) -> list[Any]:
        """Make all records visible, in their order."""
        return [apply(now) for apply in self._applies]

    def settle(self, results: list[Any]) -> None:
        """Give every call its result."""
        for waiter, result in zip(self._waiters, results, strict=True):
            if not waiter.done():
                waiter.set_result(result)

    def refuse(self, refusal: StorageError) -> None:
        """Let every call raise."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(refusal)


class GroupCommit:
    """The only writer of a journal. It runs in an event loop, and a separate thread writes the file."""

    def __init__(
        self,
        journal: Journal,
        clock: JournalClock,
        snapshot: Callable[[], tuple[str, Record]],
        compact_bytes: int,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._snapshot = snapshot
        self._on_failure: Callable[[], None] = lambda: None
        self._compact_bytes = compact_bytes
        self._compact_at = compact_bytes
        self._collecting = self._writing = _Group()
        self._stopping = False
        self.healthy = True
        """False from a write that failed to the next one that succeeded."""

    def on_failure(self, call: Callable[[], None]) -> None:
        """Have this called whenever something is not written, before its callers hear of it."""
        self._on_failure = call

    def start(self) -> None:
        """Begin to write. Call in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._thread.submit(
            int
        )  # begins the thread now: at a push there may be none to be had, and nobody would answer
        self._idle = asyncio.Event()
        self._idle.set()

    async def stop(self) -> None:
        """Write what waits, then close the journal."""
        self._stopping = True
        await self._idle.wait()
        self._thread.shutdown()
        self._journal.close()

    def commit(self, record: Record, apply: Callable[[Moment], T]) -> "asyncio.Future[T]":
        """Write a record, then make it visible with `apply`, which takes the time under which it was written.

        The future is done when both have happened, or raises StorageError: then neither has. Raises
        StorageBusyError at once if there is no room to wait.
        """
        if self._stopping:
            raise StorageBusyError("The exporter is stopping")
        if self._collecting.size > MAX_WAITING_BYTES:
            raise StorageBusyError("Too many pushes wait to be written: retry later")
        self._collecting.add(record)
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._write)  # what else this turn of the loop brings goes along
        return self._collecting.then(apply, self._loop.create_future())

    def settled(self, result: T) -> "asyncio.Future[T]":
        """`result`, once all that was handed over so far is durable. Raises StorageError if it cannot be.

        Call only while something is on its way to the disk.
        """
        group = self._collecting if self._collecting.records else self._writing
        return group.then(lambda _: result, self._loop.create_future())

    def _write(self) -> None:
        """Write what was collected, if anything was."""
        if not self._collecting.records:
            self._idle.set()
            return
        group = self._writing = self._take()
        now = self._clock.now()
        self._in_thread(
            lambda: self._journal.append(group.records, now), lambda job: self._written(job, group, now)
        )

    def _in_thread(self, work: Callable[[], None], then: Callable[["Future[None]"], None]) -> None:
        job = self._thread.submit(work)
        job.add_done_callback(lambda job: self._loop.call_soon_threadsafe(then, job))

    def _written(self, job: "Future[None]", group: _Group, now: Moment) -> None:
        try:
            job.result()
            results = group.apply(now)
        except OSError as error:
            self._refuse(group, _storage_error(error))
            if self.healthy:
                _log.error("journal_write_failed", error=str(error))
            self.healthy = False
        except Exception:  # noqa: BLE001 (whatever the error is, no caller may wait for ever)
            self._break_off(group)
        else:
            group.settle(results)
            if not self.healthy:
                _log.info("journal_writable_again")
            self.healthy = True
            if self._journal.grown >= self._compact_at:
                self._compact()
                return
        self._write()

    def _take(self) -> _Group:
        taken, self._collecting = self._collecting, _Group()
        return taken

    def _refuse(self, group: _Group, refusal: StorageError) -> None:
        """Refuse the group and what came behind it, which was judged as if the group would succeed."""
        behind = self._take()
        self._on_failure()
        group.refuse(refusal)
        behind.refuse(refusal)

    def _break_off(self, group: _Group) -> None:
        """Accept nothing more: the disk and the shown counts may differ now. A restart reads the disk."""
        self._refuse(group, StorageFailedError("The exporter must be restarted: it cannot write its journal"))
        self._stopping = True
        self.healthy = False
        _log.critical("journal_writer_failed", exc_info=True)

    def _compact(self) -> None:
        journal_id, snapshot = self._snapshot()
        now = self._clock.now()
        self._in_thread(lambda: self._journal.rewrite(journal_id, snapshot, now), self._compacted)

    def _compacted(self, job: "Future[None]") -> None:
        try:
            job.result()
        except OSError as error:
            self._compact_at = self._journal.grown + self._compact_bytes
            _log.warning("journal_compaction_failed", error=str(error))
        except Exception:  # noqa: BLE001 (as above)
            self._break_off(_Group())
        else:
            self._compact_at = self._compact_bytes
        self._write()


def _storage_error(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError("The disk is full: nothing was counted, retry later")
    if error.errno == errno.ESTALE:
        return StorageLostError(
            "The journal was removed or replaced: nothing was counted, restart the exporter"
        )
    return StorageFailedError("The journal cannot be written: nothing was counted, retry later")
