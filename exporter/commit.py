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
        self._records: list[Record] = []
        self._applies: list[Apply] = []
        self._waiting_bytes = 0
        self._stopping = False
        self.healthy = True
        """False from a write that failed to the next one that succeeded."""

    def start(self) -> None:
        """Begin to write. Call in the event loop."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._wake = asyncio.Event()
        self._collecting = asyncio.get_running_loop().create_future()
        self._writing = self._collecting
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
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise StorageBusyError("Too much is waiting to be written")
        self._records.append(record)
        self._applies.append(apply)
        self._waiting_bytes += len(record.body)
        self._wake.set()
        await asyncio.shield(self._collecting)

    async def settled(self) -> None:
        """Return when all that was handed over so far is durable. Raises StorageError if it cannot be."""
        if self._records:
            await asyncio.shield(self._collecting)
        else:
            await asyncio.shield(self._writing)

    async def _run(self) -> None:
        while not (self._stopping and not self._records):
            await self._wake.wait()
            self._wake.clear()
            if self._records:
                await self._write_group()

    async def _write_group(self) -> None:
        loop = asyncio.get_running_loop()
        records, applies, group = self._take()
        self._writing = group
        now = self._clock()
        try:
            await loop.run_in_executor(self._thread, self._journal.append, records, now)
            for apply in applies:
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
            group.set_result(None)
            if not self.healthy:
                _log.info("journal_writable_again")
            self.healthy = True
            if self._journal.grown >= self._compact_at:
                await self._compact()

    def _take(self) -> tuple[list[Record], list[Apply], "asyncio.Future[None]"]:
        taken = self._records, self._applies, self._collecting
        self._records, self._applies, self._waiting_bytes = [], [], 0
        self._collecting = asyncio.get_running_loop().create_future()
        return taken

    def _refuse(self, group: "asyncio.Future[None]", refusal: StorageError) -> None:
        """Refuse the group and what came behind it, which was judged as if the group would succeed."""
        _, _, behind = self._take()
        self._on_failure()
        for future in (group, behind):
            future.set_exception(refusal)
            future.exception()  # marks it as seen: there may be nobody waiting

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
