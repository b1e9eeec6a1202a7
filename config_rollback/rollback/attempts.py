"""The one writer of the audit: each attempt is one transaction.

It holds the decision, the audit row, what the row tells of, and the answer that retries get. What cannot be
audited is not done. This module knows no HTTP, and not what is attempted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import structlog

from config_rollback.audit.chain import Attempt, Head
from config_rollback.clock import Clock
from config_rollback.errors import (
    AuditUnavailableError,
    IdempotencyKeyReusedError,
    OutcomeUnknownError,
    RefusalError,
    RequestInProgressError,
    ShutOutError,
    StorageBusyError,
    StorageUnavailableError,
    UnavailableError,
)
from config_rollback.storage.models import IdempotencyRecord
from config_rollback.storage.store import Store, Transaction

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = structlog.get_logger(__name__)

_REPLAYABLE = {
    kind.code: kind
    for kind in RefusalError.__subclasses__()
    if kind not in (IdempotencyKeyReusedError, ShutOutError)
}
"""Refusals that a retry gets again; the others are about this request, whatever the first one got."""

Outcome = TypeVar("Outcome", covariant=True)
Result = TypeVar("Result", bound="DataclassInstance")


@dataclass(frozen=True)
class Actor:
    """Who acts: the subject of a token or session, the role it was given, and the issuer of both.

    The same subject of two issuers is two people. `issuer` is `driftback` where this service's own key
    signed, else the URL of the other.
    """

    subject: str
    role: str
    issuer: str

    @property
    def identity(self) -> tuple[str, str]:
        """Issuer and subject, which together are one person."""
        return (self.issuer, self.subject)


@dataclass(frozen=True)
class Call:
    """The circumstances of an attempt. With a key, a retry gets the first answer and changes nothing."""

    actor: Actor
    request_id: str
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Decision(Generic[Outcome]):
    """What is to be done: an audit row, and then what the row tells of."""

    row: Attempt
    carry_out: Callable[[int], Outcome]
    """Writes what the row of this `audit_id` tells of; returns the answer to the caller."""


class Observer(Protocol):
    """Gets every attempt when it has ended. A replayed answer is not an attempt."""

    def audited(self, attempt: Attempt) -> None:
        """The attempt has its audit row."""

    def unaudited(self, attempt: Attempt, error: UnavailableError) -> None:
        """The database failed: nothing was done, or the outcome is unknown (`OutcomeUnknownError`)."""


class Attempts:
    """Carries attempts out, one writer at a time."""

    def __init__(self, store: Store, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._in_flight: set[tuple[tuple[str, str], str]] = set()
        self._in_flight_lock = threading.Lock()

    def begin(self, call: Call, action: str, persona: str | None = None, **columns: Any) -> Attempt:
        """An attempt by the caller, now; `columns` are further columns of its row."""
        return Attempt(
            at=self._clock(),
            request_id=call.request_id,
            actor=call.actor.subject,
            role=call.actor.role,
            action=action,
            persona=persona,
            issuer=call.actor.issuer,
            **columns,
        )

    def perform(
        self,
        call: Call,
        attempt: Attempt,
        request: DataclassInstance,
        decide: Callable[[Transaction], Decision[Result]],
        result_type: type[Result],
    ) -> Result:
        """Decides about an attempt, adds its audit row, and carries it out, all or nothing.

        `decide` only reads; it raises a `RefusalError`, which is audited and raised. `request` is what makes
        two attempts the same. Raises also `RequestInProgressError`, `StorageBusyError` and
        `AuditUnavailableError`; then nothing was done. After `OutcomeUnknownError` it may have been.
        """
        identity, key = call.actor.identity, call.idempotency_key
        content = json.dumps([attempt.action, asdict(request)], sort_keys=True)
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        decision: Decision[Result] | Decision[RefusalError]
        with self._alone(call), self.auditable(attempt), self._store.write() as transaction:
            earlier = transaction.idempotent(identity, key) if key else None
            if earlier and earlier[0] == fingerprint:
                return _replayed(earlier[1], result_type)
            try:
                # Asked again: the body of a request may have come long after its head.
                if transaction.shut_out_person(*identity) is not None:
                    raise ShutOutError
                if earlier:
                    raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request")
                decision = decide(transaction)
            except RefusalError as refusal:  # not a database error: the transaction is intact
                decision = _refused(attempt, refusal)
            head = transaction.append_audit(decision.row)
            outcome = decision.carry_out(head.audit_id)
            if key and (not isinstance(outcome, RefusalError) or outcome.code in _REPLAYABLE):
                record = IdempotencyRecord(
                    issuer=call.actor.issuer,
                    actor=call.actor.subject,
                    key=key,
                    fingerprint=fingerprint,
                    outcome_json=json.dumps(_kept(outcome)),
                    created_at=attempt.at,
                )
                transaction.remember(record)
        self._announce(head, decision.row)
        if isinstance(outcome, RefusalError):
            raise outcome
        return outcome

    def record(self, attempts: Sequence[Attempt]) -> None:
        """Audits attempts that were refused before any decision, all or none. Raises as `perform` does."""
        if not attempts:
            return
        with self.auditable(attempts[0]), self._store.write() as transaction:
            heads = [transaction.append_audit(attempt) for attempt in attempts]
        for head, attempt in zip(heads, attempts, strict=True):
            self._announce(head, attempt)

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
                raise RequestInProgressError(
                    "the first request with this Idempotency-Key is still running: try again in a moment"
                )
            self._in_flight.add(key)
        try:
            yield
        finally:
            with self._in_flight_lock:
                self._in_flight.discard(key)

    @contextmanager
    def auditable(self, attempt: Attempt) -> Iterator[None]:
        """Tells the observer where the database fails: the attempt then has no row, and is not done."""
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
        # A person who can edit the database cannot change the chain's head in the log.
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


def _refused(attempt: Attempt, refusal: RefusalError) -> Decision[RefusalError]:
    return Decision(replace(attempt, status="failed", error_code=refusal.code), lambda _: refusal)


def _kept(outcome: DataclassInstance | RefusalError) -> dict[str, Any]:
    if isinstance(outcome, RefusalError):
        return {"code": outcome.code, "message": outcome.message, "details": outcome.details}
    return {"result": asdict(outcome)}


def _replayed(kept: dict[str, Any], result_type: type[Result]) -> Result:
    if "result" in kept:
        return result_type(**kept["result"])
    raise _REPLAYABLE[kept["code"]](kept["message"], **kept["details"])
