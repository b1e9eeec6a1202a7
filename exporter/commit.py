"""Group commit: what arrives while the disk is busy is written together, with one fsync for all.

Counts become visible only when they are on disk. So a scrape never shows a number that a crash could take
back.
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from exporter.errors import StorageBusyError, StorageError, StorageFailedError, StorageFullError
from exporter.journal import Journal, Record

MAX_WAITING_BYTES = 64 * 1024 * 1024

Apply = Callable[[float], None]
"""Makes a durable record visible; takes the time under which it was written, in Unix seconds."""

_log = structlog.get_logger("exporter.commit")


class _Group:
    """Records that are written together, and the calls that wait for them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.applies: list[Apply] = []
        self.size = 0
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, record: Record, apply: Apply) -> None:
        self.records.append(record)
        self.applies.append(apply)
        self.size += len(record.body)

    async def written(self) -> None:
        """Return when the group is on disk. Call before `settle`."""
        # A future of its own for each call: one that is cancelled must not cancel the others.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def settle(self, refusal: StorageError | None = None) -> None:
        """Let the calls go on, or raise."""
        for waiter in self._waiters:
            if not waiter.done():
                if refusal is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(refusal)


class GroupCommit:
    """The one writer of a journal. Lives in an event loop; the file is touched in a thread of its own."""

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], float],
        snapshot: Callable[[], tuple[str, Record]],
        on_failure: Callable[[], None],
        compact_bytes: int,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._snapshot = snapshot
        self._on_failure = on_failure
        self._compact_bytes = compact_bytes
        self._compact_at = compact_bytes
        self._collecting = self._writing = _Group()
        self._stopping = False
        self.healthy = True
        """False from a write that failed to the next one that succeeded."""

    def start(self) -> None:
        """Begin to write. Call in the event loop."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what waits, then close the journal."""
        self._stopping = True
        self._wake.set()
        await self._task
        self._thread.shutdown()
        self._journal.close()

    async def commit(self, record: Record, apply: Apply) -> None:
        """Return when `record` is durable and `apply` was called. Raises StorageError: then neither is so."""
        if self._stopping:
            raise StorageBusyError("The exporter is stopping")
        if self._collecting.size > MAX_WAITING_BYTES:
            raise StorageBusyError("Too much is waiting to be written")
        self._collecting.add(record, apply)
        self._wake.set()
        await self._collecting.written()

    async def settled(self) -> None:
        """Return when all that was handed over so far is durable. Raises StorageError if it cannot be.

        Call only while something is on its way to the disk.
        """
        await (self._collecting if self._collecting.records else self._writing).written()

    async def _run(self) -> None:
        while not (self._stopping and not self._collecting.records):
            await self._wake.wait()
            self._wake.clear()
            if self._collecting.records:
                await self._write_group()

    async def _write_group(self) -> None:
        loop = asyncio.get_running_loop()
        group = self._writing = self._take()
        now = self._clock()
        try:
            await loop.run_in_executor(self._thread, self._journal.append, group.records, now)
            for apply in group.applies:
                apply(now)
        except OSError as error:
            self._refuse(group, _storage_error(error))
            if self.healthy:
                _log.error("journal_write_failed", error=str(error))
            self.healthy = False
        except Exception:  # noqa: BLE001 (whatever it was, nobody must wait for ever)
            # What is on disk and what is shown may differ now. A restart reads the disk.
            self._refuse(group, StorageFailedError("The exporter must be restarted"))
            self._stopping = True
            self.healthy = False
            _log.critical("journal_writer_failed", exc_info=True)
        else:
            group.settle()
            if not self.healthy:
                _log.info("journal_writable_again")
            self.healthy = True
            if self._journal.grown >= self._compact_at:
                await self._compact()

    def _take(self) -> _Group:
        taken, self._collecting = self._collecting, _Group()
        return taken

    def _refuse(self, group: _Group, refusal: StorageError) -> None:
        """Refuse the group and what came behind it, which was judged as if the group would succeed."""
        behind = self._take()
        self._on_failure()
        group.settle(refusal)
        behind.settle(refusal)

    async def _compact(self) -> None:
        journal_id, snapshot = self._snapshot()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._thread, self._journal.rewrite, journal_id, snapshot, self._clock()
            )
            self._compact_at = self._compact_bytes
        except OSError as error:
            self._compact_at = self._journal.grown + self._compact_bytes
            _log.warning("journal_compaction_failed", error=str(error))


def _storage_error(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError("The disk is full: nothing was counted, retry later")
    return StorageFailedError("The journal cannot be written: nothing was counted, retry later")
