"""Refused attempts of people without rights: the first is an audit row, the next ones share one row.

Such a person can try as often as the rate limit allows. One row for each attempt would fill the audit log,
and every row takes the writers' lock.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import structlog

from config_rollback.audit.chain import Attempt
from config_rollback.errors import UnavailableError
from config_rollback.rollback.attempts import Attempts, Call

MAX_KINDS = 50
"""Kinds with rows of their own from one `settle` to the next; attempts of further people are put together."""
OTHERS = "others"
"""The actor of a row about several people, which names no issuer."""

Kind = tuple[str | None, ...]

log = structlog.get_logger(__name__)


class Refusals:
    """Counts attempts that are alike: of the same person and role, with the same action and error code.

    The counts are in memory until `settle` writes them, so a process that is killed takes those since the
    last time with it; each attempt is a line of the log.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._lock = threading.Lock()
        self._counted: dict[Kind, Attempt | None] = {}

    def admit(self, call: Call, action: str, persona: str | None, error_code: str) -> Attempt | None:
        """Returns the attempt if it is the first of its kind and must be written; otherwise counts it."""
        attempt = replace(self._attempts.begin(call, action, persona), status="failed", error_code=error_code)
        log.info(
            "attempt_refused",
            actor=attempt.actor,
            issuer=attempt.issuer,
            action=action,
            persona=persona,
            error_code=error_code,
        )
        with self._lock:
            if _kind(attempt) not in self._counted and len(self._counted) < MAX_KINDS:
                self._counted[_kind(attempt)] = None
                return attempt
            self._count(attempt)
        return None

    def write(self, attempt: Attempt) -> None:
        """Adds the row of a first attempt. Raises as `Attempts.record` does; then the next is the first."""
        try:
            self._attempts.record([attempt])
        except UnavailableError:
            with self._lock:
                if self._counted.get(_kind(attempt)) is None:
                    self._counted.pop(_kind(attempt), None)
            raise

    def settle(self) -> None:
        """Adds a row for each kind that was counted; the next attempt of each is a first one again.

        Raises as `Attempts.record` does; then the counts are kept for the next time.
        """
        with self._lock:
            counted, self._counted = [attempt for attempt in self._counted.values() if attempt], {}
        try:
            self._attempts.record(counted)
        except UnavailableError:
            with self._lock:
                for attempt in counted:
                    self._count(attempt)
            raise

    def _count(self, attempt: Attempt) -> None:
        if _kind(attempt) not in self._counted and len(self._counted) >= MAX_KINDS:
            attempt = replace(attempt, actor=OTHERS, issuer=None, role=OTHERS)
        before = self._counted.get(_kind(attempt))
        if before is not None:
            attempts = before.attempts + attempt.attempts
            persona = attempt.persona if attempt.persona == before.persona else None
            attempt = replace(attempt, attempts=attempts, persona=persona)
        self._counted[_kind(attempt)] = attempt


def _kind(attempt: Attempt) -> Kind:
    return (attempt.issuer, attempt.actor, attempt.role, attempt.action, attempt.error_code)
