"""The exporter without HTTP: state, journal, commit and ingest put together."""

import asyncio
from collections.abc import Callable

import structlog

from exporter.errors import PolicyError, StateUnusableError, StorageError
from exporter.ingest import Ingest
from exporter.limits import Limits, load_policy
from exporter.metrics.monitoring import SelfMonitoring
from exporter.metrics.render import View
from exporter.settings import Settings
from exporter.storage.clock import JournalClock, Moment
from exporter.storage.commit import GroupCommit
from exporter.storage.journal import Journal, Record, Recovery
from exporter.storage.state import State

EXPIRY_INTERVAL_SECONDS = 3600.0

_log = structlog.get_logger("exporter.service")


class Service:
    """Holds the state folder from its creation to the end of `stop`."""

    def __init__(
        self,
        settings: Settings,
        monitoring: SelfMonitoring,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._monitoring = monitoring
        self._policy_file = settings.policy_file
        policy = load_policy(settings.policy_file)
        self._state = State(policy.reasons)
        self._limits = Limits(policy, monitoring.rejected)
        journal = Journal(settings.state_dir)
        try:
            recovery = journal.recover()
            self._clock = JournalClock(unix, monotonic, recovery.newest, monitoring.clock_jumped)
            _take_over(journal, recovery, self._state, self._clock.now())
            if recovery.fault is not None:
                monitoring.recovered(recovery.fault)
        except BaseException:
            journal.close()
            raise
        self._commit = GroupCommit(journal, self._clock, self._snapshot, settings.compact_bytes)
        self.ingest = Ingest(self._state, self._limits, self._commit)
        monitoring.watch(self._state.table)
        monitoring.limit(policy.max_series)

    @property
    def journal(self) -> str:
        """Random id of the durable state: the label `journal` of every conversation series."""
        return self._state.table.journal

    @property
    def ready(self) -> bool:
        """Whether the last write succeeded, so that pushes can be expected to."""
        return self._commit.healthy

    def view(self) -> View:
        """What a scrape shows: a copy of this moment."""
        journeys = self._limits.policy.journeys
        scoped = [journey for journey, policy in journeys.items() if policy.out_of_scope]
        label_sets = [label_set.copy() for label_set in self._state.table]
        return View(label_sets, self._state.table.reasons, scoped)

    def reload_policy(self) -> None:
        """Read the label policy again; keep the present one if the new one is invalid.

        Batches on their way to the disk were judged by the old policy and are counted as it said. Label sets
        that are known stay, whatever the new bounds are, until nobody touches them for 8 days. Call in the
        event loop.
        """
        try:
            policy = load_policy(self._policy_file)
        except PolicyError as error:
            self._monitoring.policy_reloaded(successful=False)
            _log.error("policy_kept", reason=error.message)
            return
        self._limits.change(policy)
        self._state.table.know_reasons(policy.reasons)
        self._monitoring.limit(policy.max_series)
        self._monitoring.policy_reloaded(successful=True)
        _log.info("policy_reloaded", journeys=list(policy.journeys), max_series=policy.max_series)

    def start(self) -> None:
        """Begin to take pushes. Call in the event loop."""
        self._commit.start()
        self._expiry = asyncio.create_task(self._expire_regularly())

    async def stop(self) -> None:
        """Write what waits and let go of the state folder."""
        self._expiry.cancel()
        await self._commit.stop()

    def _snapshot(self) -> tuple[str, Record]:
        return self._state.table.journal, self._state.snapshot()

    async def _expire_regularly(self) -> None:
        """At the start and once an hour: an exporter that never lives for an hour expires label sets too."""
        while True:
            try:
                await self.ingest.expire(self._clock.now())
            except StorageError as error:
                _log.warning("expiry_postponed", error=error.message)
            except Exception:  # noqa: BLE001 (a task that ended would let everything stay for ever)
                _log.exception("expiry_failed")
            await asyncio.sleep(EXPIRY_INTERVAL_SECONDS)


def _take_over(journal: Journal, recovery: Recovery, state: State, now: Moment) -> None:
    state.recover(recovery, now)
    if recovery.fault is not None:
        report = _log.warning if recovery.bytes_dropped else _log.info
        report(
            "journal_recovered",
            fault=recovery.fault.value,
            records_kept=len(recovery.records),
            bytes_dropped=recovery.bytes_dropped,
            journal=state.table.journal,
            journal_before=recovery.journal_id,
        )
        if recovery.fault.lost_records:
            try:
                journal.rewrite(state.table.journal, state.snapshot(), now)
            except OSError as error:
                raise StateUnusableError(f"Cannot write the journal: {error}") from None
