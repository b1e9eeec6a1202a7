"""Compares the audit rows with all activations and versions, in both directions.

The chain (`audit.py`) proves what the rows say; here is whether activations and versions are what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from config_rollback.audit import chain as audit
from config_rollback.audit.chain import Head, RecordedAttempt, Verification
from config_rollback.personas import persona_config


@dataclass(frozen=True)
class ActivationRecord:
    """An activation, as it is stored and exported."""

    activation_id: int
    persona: str
    version: int
    from_version: int | None
    action: str
    activated_at: datetime
    activated_by: str


@dataclass(frozen=True)
class VersionRecord:
    """A version, as it is stored and exported; `content_hash` is the hash stored with its content."""

    content_hash: str
    config_json: str
    created_at: datetime
    created_by: str
    note: str

    @property
    def is_whole(self) -> bool:
        """Whether the noted hash is that of the content."""
        return persona_config.content_hash(self.config_json) == self.content_hash


@dataclass(frozen=True)
class Entry:
    """A row, the activation that names it, and the version that it activates; None if one is missing."""

    row: RecordedAttempt
    activation: ActivationRecord | None
    version: VersionRecord | None


def problem(entry: Entry) -> str | None:
    """The problem with the activation or the version of a row; None if both match the row."""
    row, activation, version = entry.row, entry.activation, entry.version
    if row.status != "succeeded" or row.action not in audit.ACTIVATING:
        return (
            None if activation is None else f"activation {activation.activation_id} has no right to its row"
        )
    if activation is None:
        return "the activation that it tells of is not there"
    recorded = (row.persona, row.to_version, row.from_version, row.action, row.at, row.actor)
    found = (
        activation.persona,
        activation.version,
        activation.from_version,
        activation.action,
        activation.activated_at,
        activation.activated_by,
    )
    if recorded != found:
        return f"activation {activation.activation_id} is not what it tells of"
    if version is None:
        return f"version {activation.version} is not there"
    if not version.is_whole or row.content_hash not in (None, version.content_hash):
        return f"the content of version {activation.version} was changed"
    if row.action == "publish" and (row.at, row.actor, row.reason or "") != (
        version.created_at,
        version.created_by,
        version.note,
    ):
        return f"version {activation.version} is not what it tells of"
    return None


def objection(entry: Entry | None) -> str | None:
    """Why a version must not be delivered; None if an intact row matches its activation and content."""
    if entry is None:
        return "its newest activation is not what the newest act's audit row tells of"
    if not audit.is_whole(entry.row):
        return f"audit row {entry.row.audit_id} was changed"
    return problem(entry)


def verify(
    entries: Iterable[Entry | RecordedAttempt],
    strays: Iterable[str],
    stored_head: Head | None,
    known_head: Head | None = None,
    start: Head = audit.EMPTY,
) -> Verification:
    """Checks all rows as `audit.verify` does, and the activation and version of each.

    Of a row alone nothing more is known. `strays` name what no row tells of; they are asked for last.
    """
    problems: list[tuple[int | None, str]] = []

    def rows() -> Iterator[RecordedAttempt]:
        before, newest = 0, 0
        for entry in entries:
            row = entry.row if isinstance(entry, Entry) else entry
            if row.audit_id == before:
                continue  # a second activation of it is a stray
            before = row.audit_id
            if isinstance(entry, Entry):
                if wrong := problem(entry):
                    problems.append((row.audit_id, wrong))
                if entry.activation is not None:
                    number = entry.activation.activation_id
                    if number <= newest:
                        problems.append((row.audit_id, f"activation {number} is out of order"))
                    newest = max(newest, number)
            yield row

    chain = audit.verify(rows(), stored_head, known_head, start)
    if not chain.valid:
        return chain
    problems += [(None, stray) for stray in strays]
    return Verification(False, chain.rows, chain.head, *problems[0]) if problems else chain
