"""What the exporter must not forget: the counts, and the names of the batches that are in them.

Both live in one object and change in one step, because a count without the name of its batch would be counted
again by the retry, and a name without its count would swallow it. The same `apply` serves the live path and
the replay of the journal.
"""

import secrets
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from driftback import contract
from exporter.errors import StateUnusableError
from exporter.storage.clock import Moment
from exporter.storage.journal import Record, Recovery
from exporter.storage.series import SavedLabelSet, SeriesTable
from exporter.wire import Push, SeriesDelta

K = TypeVar("K")
V = TypeVar("V")

DAY = 86_400.0
EXPIRY_SECONDS = 8 * DAY
"""Running time after which an untouched label set is dropped: a day after the longest window forgot it."""
REMEMBER_SECONDS = 8 * DAY
"""Running time for which a client may be away and still retry a push without its being counted twice."""
MAX_REMEMBERED = 100_000
"""Clients, and idempotency keys, remembered at most."""

PUSH, OBSERVATIONS, EXPIRY, SNAPSHOT = b"P", b"O", b"X", b"S"
"""The kinds of journal records."""


class ObservationsBatch(msgspec.Struct, omit_defaults=True, gc=False):
    """A batch of observations as the journal keeps it: summed up, with its key and its body's digest."""

    key: str
    digest: str
    series: list[SeriesDelta]


class Expiry(msgspec.Struct, gc=False):
    """Label sets untouched since `before` (running time) are dropped."""

    before: float


class _Snapshot(msgspec.Struct):
    reasons: tuple[str, ...]
    label_sets: list[SavedLabelSet]
    clients: list[tuple[str, int, int, float]]
    keys: list[tuple[str, str, float]]


class State:
    """Counts and the names of counted batches. Changes are deterministic: a replay gives the same state."""

    def __init__(self, reasons: Iterable[str] = contract.REASONS) -> None:
        self.table = SeriesTable(reasons)
        self._clients: dict[tuple[str, int], tuple[int, float]] = {}
        self._keys: dict[str, tuple[str, float]] = {}

    def last_seq(self, client: str, epoch: int) -> int:
        """The highest sequence number counted for this client and epoch, 0 if none."""
        return self._clients.get((client, epoch), (0, 0.0))[0]

    def digest(self, key: str) -> str | None:
        """Digest of the batch that was counted under this idempotency key, if any."""
        entry = self._keys.get(key)
        return entry[0] if entry else None

    def apply_push(self, push: Push, now: Moment) -> None:
        """Count a push, once."""
        if push.seq <= self.last_seq(push.client, push.epoch):
            return
        for delta in push.series:
            self.table.add(delta, now)
        _remember(self._clients, (push.client, push.epoch), push.seq, now.running)

    def apply_observations(self, batch: ObservationsBatch, now: Moment) -> None:
        """Count a batch of observations, once."""
        if batch.key in self._keys:
            return
        for delta in batch.series:
            self.table.add(delta, now)
        _remember(self._keys, batch.key, batch.digest, now.running)

    def apply_expiry(self, expiry: Expiry) -> None:
        """Drop label sets without new messages."""
        self.table.remove(self.table.untouched_since(expiry.before))

    def begin_anew(self, now: Moment) -> None:
        """Take a new journal id and count from zero, as after lost records (docs/exporter.md).

        Known label sets stay known, and counted batches stay counted: their counts are in the old journal's
        series.
        """
        self.table.reset(secrets.token_hex(8), now)

    def recover(self, recovery: Recovery, now: Moment) -> None:
        """Take over what a journal held. Raises StateUnusableError if a record cannot be read."""
        self.table.journal = recovery.journal_id
        try:
            for moment, record in recovery.records:
                self._replay(record, moment)
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            raise StateUnusableError(
                f"The journal contains a record that cannot be read: {error!r}"
            ) from error
        if recovery.fault is not None and recovery.fault.lost_records:
            self.begin_anew(now)

    def snapshot(self) -> Record:
        """Everything, as the record that begins a journal."""
        content = _Snapshot(
            reasons=self.table.reasons,
            label_sets=self.table.save(),
            clients=[(*name, *value) for name, value in self._clients.items()],
            keys=[(key, *value) for key, value in self._keys.items()],
        )
        return Record(SNAPSHOT, msgspec.msgpack.encode(content))

    def _replay(self, record: Record, moment: Moment) -> None:
        match record.kind:
            case b"P":
                self.apply_push(msgspec.json.decode(record.body, type=Push), moment)
            case b"O":
                self.apply_observations(msgspec.json.decode(record.body, type=ObservationsBatch), moment)
            case b"X":
                self.apply_expiry(msgspec.json.decode(record.body, type=Expiry))
            case b"S":
                self._restore(msgspec.msgpack.decode(record.body, type=_Snapshot))
            case unknown:
                raise KeyError(unknown)

    def _restore(self, snapshot: _Snapshot) -> None:
        self.table.restore(snapshot.label_sets, snapshot.reasons)
        self._clients = {(client, epoch): (seq, seen) for client, epoch, seq, seen in snapshot.clients}
        self._keys = {key: (digest, seen) for key, digest, seen in snapshot.keys}


def _remember(entries: dict[K, tuple[V, float]], name: K, value: V, now: float) -> None:
    """Put an entry last and drop the oldest, which come first.

    In journals of format 1 the time may go back; that makes no entry older.
    """
    latest = max(now, next(reversed(entries.values()))[1]) if entries else now
    entries.pop(name, None)
    entries[name] = (value, latest)
    while entries:
        oldest = next(iter(entries))
        if len(entries) <= MAX_REMEMBERED and entries[oldest][1] >= now - REMEMBER_SECONDS:
            return
        del entries[oldest]
