"""An attempt is one transaction: the act or the refusal, its audit row, and the answer that retries get.

What cannot be audited is not done. Knows no HTTP, and not what is attempted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from config_rollback.audit.chain import READ, Attempt, Head
from config_rollback.clock import Clock
from config_rollback.errors import (
    AuditUnavailableError,
    ConfigChangedError,
    IdempotencyKeyReusedError,
    NotFoundError,
    NothingToRollBackError,
    OutcomeUnknownError,
    OwnAccessError,
    RefusalError,
    RequestInProgressError,
    ShutOutError,
    StorageBusyError,
    StorageUnavailableError,
    TargetNotFoundError,
    TooManyShutOutError,
    UnavailableError,
    VersionDamagedError,
)
from config_rollback.storage.models import IdempotencyRecord
from config_rollback.storage.store import Store, Transaction

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = structlog.get_logger(__name__)

_REPLAYABLE: dict[str, type[RefusalError]] = {
    refusal.code: refusal
    for refusal in (
        ConfigChangedError,
        NotFoundError,
        NothingToRollBackError,
        OwnAccessError,
        TargetNotFoundError,
        TooManyShutOutError,
        VersionDamagedError,
    )
}

Result = TypeVar("Result", bound="DataclassInstance")


@dataclass(frozen=True)
class Actor:
    """Who acts: the subject of a token or session, the role it was given, and who vouches for both.

    The same subject of two issuers is two people. `issuer` is `driftback` where this service's own key
    signed, else the URL of the other.
    """

    subject: str
    role: str
    issuer: str

    @property
    def identity(self) -> tuple[str, str]:
        """Issuer and subject: what is one person."""
        return (self.issuer, self.subject)


@dataclass(frozen=True)
class Call:
    """The circumstances of an attempt. With a key, a retry gets the first answer and changes nothing."""

    actor: Actor
    request_id: str
    idempotency_key: str | None = None


class Observer(Protocol):
    """Is told of every attempt once it is over; a replayed answer is no attempt."""

    def audited(self, attempt: Attempt) -> None:
        """The attempt has its audit row."""

    def unaudited(self, attempt: Attempt, error: UnavailableError) -> None:
        """The database failed; nothing was done, or (`OutcomeUnknownError`) nobody knows."""


class Attempts:
    """Carries attempts out, one writer at a time."""

    def __init__(self, store: Store, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._in_flight: set[tuple[tuple[str, str], str]] = set()
        self._in_flight_lock = threading.Lock()

    def begin(self, call: Call, action: str, persona: str | None) -> Attempt:
        """An attempt by the caller, now."""
        return Attempt(
            at=self._clock(),
            request_id=call.request_id,
            actor=call.actor.subject,
            role=call.actor.role,
            action=action,
            persona=persona,
            issuer=call.actor.issuer,
        )

    def perform(
        self,
        call: Call,
        attempt: Attempt,
        decide: Callable[[Transaction], Result],
        wish: dict[str, Any],
        result_type: type[Result],
    ) -> Result:
        """Runs `decide`, which does the act and appends its audit row, or raises a `RefusalError`.

        A refusal is audited and raised, and so is `ShutOutError`. `wish` is what makes two requests the same.
        Raises also `RequestInProgressError`, `StorageBusyError` and `AuditUnavailableError`; then nothing was
        done. After `OutcomeUnknownError` it may have been.
        """
        fingerprint = hashlib.sha256(json.dumps([attempt.action, wish], sort_keys=True).encode()).hexdigest()
        with self._alone(call), self._auditable(attempt), self._store.write() as transaction:
            transaction.lock_audit_head()
            key = call.idempotency_key
            earlier = transaction.idempotent(call.actor.identity, key) if key else None
            if earlier and earlier[0] == fingerprint:
                return _replayed(earlier[1], result_type)
            outcome: Result | RefusalError | ShutOutError
            try:
                # Asked again: the body of a request may have come long after its head.
                if transaction.shut_out_person(*call.actor.identity) is not None:
                    raise ShutOutError
                if earlier:
                    raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request")
                outcome = decide(transaction)
            except (RefusalError, ShutOutError) as refusal:  # not a database error: the transaction is intact
                outcome = refusal
                attempt = replace(attempt, status="failed", error_code=refusal.code)
                transaction.append_audit(attempt)
            if key and not earlier and not isinstance(outcome, ShutOutError):
                record = IdempotencyRecord(
                    issuer=call.actor.issuer,
                    actor=call.actor.subject,
                    key=key,
                    fingerprint=fingerprint,
                    outcome_json=json.dumps(_kept(outcome)),
                    created_at=attempt.at,
                )
                transaction.remember(record)
            head = transaction.lock_audit_head()
        self._announce(head, attempt)
        if isinstance(outcome, (RefusalError, ShutOutError)):
            raise outcome
        return outcome

    def record(self, attempts: Sequence[Attempt]) -> None:
        """Audits attempts that were refused before any decision, all or none. Raises as `perform` does."""
        if not attempts:
            return
        with self._auditable(attempts[0]), self._store.write() as transaction:
            heads = [transaction.append_audit(attempt) for attempt in attempts]
        for head, attempt in zip(heads, attempts, strict=True):
            self._announce(head, attempt)

    def ask(self, call: Call, action: str, persona: str | None, question: Callable[[], bool]) -> bool:
        """The answer of the database to what must be known before an act; it fails as the act would.

        Raises as `perform`. A `read` is no act, and fails as the question does.
        """
        if action == READ:
            return question()
        with self._auditable(self.begin(call, action, persona)):
            return question()

    @contextmanager
    def _alone(self, call: Call) -> Iterator[None]:
        """Refuses a second request with the same key while the first runs in this process.

        Between processes the transactions queue up, and the second gets the first one's answer.
        """
        if call.idempotency_key is None:
            yield
            return
        key = (call.actor.identity, call.idempotency_key)
        with self._in_flight_lock:
            if key in self._in_flight:
                raise RequestInProgressError("the first request with this Idempotency-Key has not ended yet")
            self._in_flight.add(key)
        try:
            yield
        finally:
            with self._in_flight_lock:
                self._in_flight.discard(key)

    @contextmanager
    def _auditable(self, attempt: Attempt) -> Iterator[None]:
        try:
            yield
        except (StorageBusyError, OutcomeUnknownError) as error:
            self._observer.unaudited(attempt, error)
            raise
        except StorageUnavailableError as error:
            failure = AuditUnavailableError("the audit row could not be written, so nothing was changed")
            self._observer.unaudited(attempt, failure)
            raise failure from error

    def _announce(self, head: Head, attempt: Attempt) -> None:
        self._observer.audited(attempt)
        # The log is where the chain's head is out of reach of whoever can edit the database.
        log.info(
            "audit_appended",
            audit_id=head.audit_id,
            audit_hash=head.hash,
            actor=attempt.actor,
            issuer=attempt.issuer,
            action=attempt.action,
            persona=attempt.persona,
            status=attempt.status,
            error_code=attempt.error_code,
            attempts=attempt.attempts,
        )


def _kept(outcome: DataclassInstance | RefusalError) -> dict[str, Any]:
    if isinstance(outcome, RefusalError):
        return {"code": outcome.code, "message": outcome.message, "details": outcome.details}
    return {"result": asdict(outcome)}


def _replayed(kept: dict[str, Any], result_type: type[Result]) -> Result:
    if "result" in kept:
        return result_type(**kept["result"])
    raise _REPLAYABLE[kept["code"]](kept["message"], **kept["details"])
