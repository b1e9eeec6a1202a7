"""The chain of audit rows, and what its rows tell of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from config_rollback.audit import chain as audit
from config_rollback.audit import record
from config_rollback.errors import StorageUnavailableError
from config_rollback.storage.models import Activation, AuditHead, AuditRow, Version
from config_rollback.storage.queries import Queries

ENTRIES_AT_ONCE = 10
"""Entries that the database sends in one batch; each may contain a configuration of a megabyte."""

_PARTS: tuple[tuple[Any, Any], ...] = (
    (AuditRow, audit.RecordedAttempt),
    (Activation, record.ActivationRecord),
    (Version, record.VersionRecord),
)
_ENTRY = [getattr(table, field.name) for table, part in _PARTS for field in fields(part)]
_OF_ACTIVATION = and_(Version.persona == Activation.persona, Version.number == Activation.version)
_ENTRIES = (
    select(*_ENTRY)
    .select_from(AuditRow)
    .outerjoin(Activation, Activation.audit_id == AuditRow.audit_id)
    .outerjoin(Version, _OF_ACTIVATION)
    .order_by(AuditRow.audit_id, Activation.activation_id)
)

log = structlog.get_logger(__name__)


def _entry(columns: Iterable[Any]) -> record.Entry:
    """The columns of `_ENTRY`; what a join did not find is None."""
    values = iter(columns)
    row, activation, version = ({field.name: next(values) for field in fields(part)} for _, part in _PARTS)
    return record.Entry(
        audit.RecordedAttempt(**row),
        None if activation["activation_id"] is None else record.ActivationRecord(**activation),
        None if version["content_hash"] is None else record.VersionRecord(**version),
    )


class AuditRows(Queries):
    """The chain of audit rows, and what its rows tell of."""

    def lock_audit_head(self) -> audit.Head:
        """The end of the chain, held until the commit."""
        head = self._audit_head(for_update=True)
        if head is None:
            log.error("storage_failed", cause="audit_head has no row")
            raise StorageUnavailableError("the end of the audit chain is missing")
        return head

    def append_audit(self, attempt: audit.Attempt) -> audit.Head:
        """Adds a row to the chain; returns the new end."""
        end = self.lock_audit_head()
        head = audit.Head(end.audit_id + 1, audit.row_hash(end.audit_id + 1, attempt, end.hash))
        self._session.execute(
            insert(AuditRow).values(
                audit_id=head.audit_id, previous_hash=end.hash, hash=head.hash, **vars(attempt)
            )
        )
        self._session.execute(
            update(AuditHead).where(AuditHead.id == 1).values(audit_id=head.audit_id, hash=head.hash)
        )
        return head

    def audit_row(self, audit_id: int) -> AuditRow | None:
        """One row."""
        return self._session.get(AuditRow, audit_id)

    def audit_rows(
        self,
        limit: int,
        before: int | None = None,
        persona: str | None = None,
        actor: str | None = None,
        **equal: str,
    ) -> Sequence[AuditRow]:
        """Newest first, older than row `before`; `equal` holds values of further columns."""
        query = select(AuditRow).filter_by(**equal).order_by(AuditRow.audit_id.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditRow.audit_id < before)
        if persona is not None:
            query = query.where(AuditRow.persona == persona)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        return self._session.scalars(query).all()

    def accepted_baselines(self) -> Sequence[tuple[str, datetime]]:
        """Personas whose baseline was accepted, each with the last time."""
        newest = (
            select(func.max(AuditRow.audit_id))
            .where(AuditRow.action == audit.ACCEPT_BASELINE, AuditRow.status == "succeeded")
            .group_by(AuditRow.persona)
        )
        rows = self._session.execute(
            select(AuditRow.persona, AuditRow.at).where(AuditRow.audit_id.in_(newest))
        )
        return [(persona, at) for persona, at in rows if persona is not None]

    def publications(self, persona: str, number: int) -> Sequence[record.Entry]:
        """The rows of the version's publication, with activation and version: one, if nobody tampered."""
        query = _ENTRIES.where(
            AuditRow.action == "publish",
            AuditRow.status == "succeeded",
            AuditRow.persona == persona,
            AuditRow.to_version == number,
        )
        return [_entry(columns) for columns in self._session.execute(query)]

    def newest_entries(self) -> Sequence[tuple[str, record.Entry | None]]:
        """What should serve now, by persona; None if the newest activation is not of the newest act."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        act = aliased(AuditRow)
        acted = (
            select(act.audit_id)
            .where(
                act.persona == Activation.persona,
                act.action.in_(audit.ACTIVATING),
                act.status == "succeeded",
            )
            .order_by(act.audit_id.desc())
            .limit(1)
        )
        query = (
            select(Activation.persona, AuditRow.audit_id == acted.scalar_subquery(), *_ENTRY)
            .select_from(Activation)
            .outerjoin(AuditRow, AuditRow.audit_id == Activation.audit_id)
            .outerjoin(Version, _OF_ACTIVATION)
            .where(Activation.activation_id.in_(newest))
        )
        found = self._session.execute(query)
        return [(persona, _entry(columns) if is_newest else None) for persona, is_newest, *columns in found]

    def entries_after(self, audit_id: int, limit: int, size: int) -> Sequence[record.Entry]:
        """Oldest first, from the row that follows: `limit` rows, or fewer once their contents have `size`."""
        query = _ENTRIES.where(AuditRow.audit_id > audit_id).limit(limit)
        entries: list[record.Entry] = []
        with self._session.execute(query.execution_options(yield_per=ENTRIES_AT_ONCE)) as found:
            for columns in found:
                entries.append(_entry(columns))
                size -= len(entries[-1].version.config_json) if entries[-1].version else 0
                if size <= 0:
                    break
        return entries

    def strays(self) -> Iterator[str]:
        """Activations and versions that have no audit row."""
        first = aliased(Activation)
        no_row = ~exists().where(AuditRow.audit_id == Activation.audit_id)
        of_another = exists().where(
            first.audit_id == Activation.audit_id, first.activation_id < Activation.activation_id
        )
        activations = select(Activation.activation_id, Activation.audit_id, no_row)
        published = exists().where(
            Activation.persona == Version.persona,
            Activation.version == Version.number,
            Activation.action == "publish",
        )
        versions = select(Version.persona, Version.number).where(~published)
        for activation, row, missing in self._session.execute(activations.where(or_(no_row, of_another))):
            why = "which is not there" if missing else "which is another's"
            yield f"activation {activation} names row {row}, {why}"
        for persona, number in self._session.execute(versions):
            yield f"no row tells of version {number} of {persona}"

    def verify_audit(self, known_head: audit.Head | None = None) -> audit.Verification:
        """Checks the whole chain, and the activation and version of each row, in constant memory."""
        head = self._audit_head() or audit.EMPTY
        with self._session.execute(_ENTRIES.execution_options(yield_per=ENTRIES_AT_ONCE)) as found:
            return record.verify(map(_entry, found), self.strays(), head, known_head)

    def _audit_head(self, *, for_update: bool = False) -> audit.Head | None:
        query = select(AuditHead.audit_id, AuditHead.hash).where(AuditHead.id == 1)
        row = self._session.execute(query.with_for_update() if for_update else query).one_or_none()
        return None if row is None else audit.Head(row[0], row[1])
