"""The audit chain: what is hashed, and how a chain is checked. Rows are read and written by `storage`.

Each row's hash covers its content and the hash of the row before, so an edit, a reorder, a removal or an
insertion breaks the chain at a row that can be named. Rows cut off the end leave a whole chain: those are
found by the head, kept in the database and, out of an editor's reach, in the log line of every append.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal, get_args

from config_rollback.clock import isoformat

GENESIS = "0" * 64
"""`previous_hash` of the first row."""
ACCEPT_BASELINE = "accept_baseline"
"""Action of an attempt that changes no configuration: the baseline of the drift alerts starts again."""
ACTIVATING = ("publish", "rollback")
"""Actions that, done, make a version serve."""
SHUT_OUT, LET_IN = "shut_out", "let_in"
"""Actions about a person, who is named in the reason."""
READ = "read"
"""Reading is not an act: only a refused attempt to read has a row."""
Action = Literal["publish", "rollback", "accept_baseline", "shut_out", "let_in", "read"]
"""All actions that a row can have."""
ACTIONS: tuple[str, ...] = get_args(Action)
Status = Literal["succeeded", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)
SCHEME = "2"
"""Prefix of a hash: how it was made. Rows of the scheme before are verified as they were made."""
_FIRST_SCHEME = "1"
"""The scheme of rows without issuer and content hash, and with one attempt."""


@dataclass(frozen=True)
class Attempt:
    """An attempt and its result. `status` is `succeeded` or `failed`.

    `issuer` authenticated the actor. `content_hash` is that of the version active afterwards. A refusal
    may tell of several `attempts` that were alike.
    """

    at: datetime
    request_id: str
    actor: str
    role: str
    action: str
    persona: str | None = None
    from_version: int | None = None
    to_version: int | None = None
    status: str = "succeeded"
    error_code: str | None = None
    reason: str | None = None
    alert: str | None = None
    issuer: str | None = None
    content_hash: str | None = None
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class ListedAttempt(Attempt):
    """An attempt as the API lists it."""

    audit_id: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class RecordedAttempt(ListedAttempt):
    """An attempt with its place in the chain: an audit row as it is exported."""

    previous_hash: str


LISTED_FIELDS = tuple(field.name for field in fields(ListedAttempt))
FIELDS = tuple(field.name for field in fields(RecordedAttempt))
FIRST_FIELDS = tuple(name for name in FIELDS if name not in ("issuer", "content_hash", "attempts"))
"""Those that the first scheme covers."""


@dataclass(frozen=True)
class Head:
    """The end of a chain: the id and hash of its newest row (0 and `GENESIS` when empty)."""

    audit_id: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head from `<audit_id>:<hash>`, as a log line has it; raises `ValueError`."""
        number, _, digest = text.partition(":")
        if not (number.isascii() and number.isdecimal() and digest):
            raise ValueError("a head must be <audit_id>:<hash>")
        return cls(int(number), digest)


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True)
class Verification:
    """Whether the chain is intact; if not, the first broken row and the reason."""

    valid: bool
    rows: int
    head: Head
    broken_at: int | None = None
    problem: str | None = None


def row_hash(audit_id: int, attempt: Attempt, previous_hash: str, scheme: str = SCHEME) -> str:
    """The hash of a row, over a JSON array so that no two contents share a spelling."""
    later = [] if scheme == _FIRST_SCHEME else [attempt.issuer, attempt.content_hash, attempt.attempts]
    content = [
        scheme,
        audit_id,
        isoformat(attempt.at),
        attempt.request_id,
        attempt.actor,
        attempt.role,
        attempt.action,
        attempt.persona,
        attempt.from_version,
        attempt.to_version,
        attempt.status,
        attempt.error_code,
        attempt.reason,
        attempt.alert,
        *later,
        previous_hash,
    ]
    return f"{scheme}:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def is_whole(row: RecordedAttempt) -> bool:
    """Whether the hash of a row is that of its content."""
    first = row.hash.startswith(f"{_FIRST_SCHEME}:") and not row.previous_hash.startswith(f"{SCHEME}:")
    if first and (row.issuer, row.content_hash, row.attempts) != (None, None, 1):
        return False
    return row.hash == row_hash(row.audit_id, row, row.previous_hash, _FIRST_SCHEME if first else SCHEME)


def verify(
    rows: Iterable[RecordedAttempt],
    stored_head: Head | None,
    known_head: Head | None = None,
    start: Head = EMPTY,
) -> Verification:
    """Walks all rows in order of id.

    `stored_head` is the database's own note of the end, where there is one; `known_head` one kept elsewhere
    (a log line), which the chain must contain: it may have grown since. `start` is what the rows follow.
    """
    head = start
    known_seen = known_head is None or known_head == head

    def broken(row_id: int, problem: str) -> Verification:
        return Verification(False, head.audit_id - start.audit_id, head, row_id, problem)

    for row in rows:
        if row.audit_id != head.audit_id + 1:
            return broken(row.audit_id, f"row {head.audit_id + 1} is missing")
        if row.previous_hash != head.hash:
            return broken(row.audit_id, "it does not follow from the row before")
        if not is_whole(row):
            return broken(row.audit_id, "its content was changed")
        head = Head(row.audit_id, row.hash)
        if known_head is not None and head.audit_id == known_head.audit_id:
            if head.hash != known_head.hash:
                return broken(row.audit_id, "it differs from the known head: the chain was rewritten")
            known_seen = True
    if stored_head is not None and head != stored_head:
        cut = head.audit_id + 1 if stored_head.audit_id > head.audit_id else head.audit_id
        return broken(
            cut, f"the chain ends at row {head.audit_id}, the head names row {stored_head.audit_id}"
        )
    if not known_seen and known_head is not None:
        return broken(
            head.audit_id + 1,
            f"the chain ends at row {head.audit_id}, the known head is row {known_head.audit_id}",
        )
    return Verification(True, head.audit_id - start.audit_id, head)
