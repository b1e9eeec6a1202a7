"""Blocks one person at once, in every replica, without ending everybody's sessions and tokens.

A person is a subject of an issuer. Their sessions end for good. Their tokens are refused until they are
unblocked. A person who has this service's own signing key can use any name.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from config_rollback.audit.chain import LET_IN, READ, SHUT_OUT
from config_rollback.clock import isoformat
from config_rollback.errors import NotFoundError, OwnAccessError, TooManyShutOutError
from config_rollback.rollback.attempts import Attempts, Call, Decision
from config_rollback.storage.store import Store, Transaction

MAX_PEOPLE = 1000
"""How many people may be blocked at the same time."""


@dataclass(frozen=True)
class Person:
    """The person whom a request is about, and the reason."""

    issuer: str
    subject: str
    reason: str | None = None


@dataclass(frozen=True)
class Decided:
    """The result: the person is blocked from now on, or is unblocked."""

    issuer: str
    subject: str
    shut_out: bool
    audit_id: int
    at: str


class ShutOut:
    """The list of blocked people, read at every request of a person."""

    def __init__(self, store: Store, attempts: Attempts) -> None:
        self._store = store
        self._attempts = attempts

    def holds(self, call: Call, action: str, persona: str | None) -> bool:
        """Whether the caller is blocked. An act fails as `Attempts.perform` does."""
        attempt = self._attempts.begin(call, action, persona)
        as_the_act = nullcontext() if action == READ else self._attempts.auditable(attempt)
        with as_the_act, self._store.read() as transaction:
            return transaction.shut_out_person(*call.actor.identity) is not None

    def add(self, person: Person, call: Call) -> Decided:
        """Blocks a person and ends their sessions.

        Raises `OwnAccessError`, `TooManyShutOutError`, and what `Attempts.perform` raises.
        """
        return self._decide(person, call, SHUT_OUT)

    def remove(self, person: Person, call: Call) -> Decided:
        """Unblocks a person. Raises as `add`; `NotFoundError` where they are not blocked."""
        return self._decide(person, call, LET_IN)

    def _decide(self, person: Person, call: Call, action: str) -> Decided:
        identity = (person.issuer, person.subject)
        why = f": {person.reason}" if person.reason else ""
        attempt = self._attempts.begin(call, action, reason=f"{person.subject} of {person.issuer}{why}")

        def decide(transaction: Transaction) -> Decision[Decided]:
            if call.actor.identity == identity:
                raise OwnAccessError("you cannot decide about your own access: ask another operator")
            known = transaction.shut_out_person(*identity)
            if action == LET_IN and known is None:
                raise NotFoundError("this person is not blocked")
            if action == SHUT_OUT and known is None and len(transaction.shut_out_people()) >= MAX_PEOPLE:
                raise TooManyShutOutError(
                    f"{MAX_PEOPLE} people are blocked, which is the limit: unblock some first"
                )

            def carry_out(audit_id: int) -> Decided:
                if action == SHUT_OUT:
                    transaction.shut_out(*identity, attempt.at)
                else:
                    transaction.let_in(*identity)
                return Decided(*identity, action == SHUT_OUT, audit_id, isoformat(attempt.at))

            return Decision(attempt, carry_out)

        return self._attempts.perform(call, attempt, person, decide, Decided)
