"""Versions and activations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import aliased, defer

from config_rollback.audit import chain as audit
from config_rollback.storage.database import ACTIVATIONS_CHANNEL
from config_rollback.storage.models import Activation, AuditRow, Version
from config_rollback.storage.queries import Queries


class Versions(Queries):
    """Versions and activations."""

    def active(self, persona: str) -> Activation | None:
        """The newest entry of the persona's log."""
        return self._session.scalar(
            select(Activation)
            .where(Activation.persona == persona)
            .order_by(Activation.activation_id.desc())
            .limit(1)
        )

    def all_active(self) -> Sequence[tuple[Activation, Version]]:
        """What serves now, by persona; versions without their contents."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        rows = self._session.execute(
            select(Activation, Version)
            .join(Version, and_(Version.persona == Activation.persona, Version.number == Activation.version))
            .where(Activation.activation_id.in_(newest))
            .options(defer(Version.config_json, raiseload=True))
        )
        # Sorted here: databases differ in how they order text.
        pairs = [(activation, version) for activation, version in rows]
        return sorted(pairs, key=lambda pair: pair[0].persona)

    def newest_activation(self) -> tuple[int, str | None] | None:
        """Its id and the hash of its audit row, which differs if a restored backup used the id again."""
        query = (
            select(Activation.activation_id, AuditRow.hash)
            .outerjoin(AuditRow, AuditRow.audit_id == Activation.audit_id)
            .order_by(Activation.activation_id.desc())
            .limit(1)
        )
        row = self._session.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])

    def version(self, persona: str, number: int) -> Version | None:
        """One immutable version."""
        return self._session.get(Version, (persona, number))

    def versions(self, persona: str, limit: int | None = None) -> Sequence[Version]:
        """The newest versions, or all, newest first, without their contents."""
        query = select(Version).where(Version.persona == persona).order_by(Version.number.desc())
        without_content = defer(Version.config_json, raiseload=True)
        return self._session.scalars(query.limit(limit).options(without_content)).all()

    def newest_version_number(self, persona: str) -> int:
        """0 if the persona has no version."""
        query = select(func.max(Version.number)).where(Version.persona == persona)
        return self._session.scalar(query) or 0

    def add_version(self, version: Version) -> None:
        """Adds an immutable version."""
        self._session.add(version)
        self._session.flush()

    def activate(self, row: audit.Attempt, audit_id: int) -> int:
        """Adds the activation that an audit row tells of; other replicas hear of it with the commit.

        Returns its id.
        """
        activation = Activation(
            persona=row.persona,
            version=row.to_version,
            from_version=row.from_version,
            action=row.action,
            activated_at=row.at,
            activated_by=row.actor,
            audit_id=audit_id,
        )
        self._session.add(activation)
        self._session.flush()
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.execute(select(func.pg_notify(ACTIVATIONS_CHANNEL, "")))
        return activation.activation_id

    def activation_of_audit(self, audit_id: int) -> Activation | None:
        """The activation of an audit row."""
        return self._session.scalar(select(Activation).where(Activation.audit_id == audit_id))

    def default_target(self, activation: Activation) -> int | None:
        """What a rollback from this activation's version restores.

        The most recently active of the older versions that was not rolled back since its latest activation.
        Going on to a newer version, as the undo of a rollback does, says nothing against the one it leaves.
        Never a newer version: an operator who went from 3 to 1 did not mean 2 to be next.
        """
        earlier, left = aliased(Activation), aliased(Activation)
        rolled_back = exists().where(
            left.persona == earlier.persona,
            left.action == "rollback",
            left.from_version == earlier.version,
            left.version < left.from_version,
            left.activation_id > earlier.activation_id,
            left.activation_id <= activation.activation_id,
        )
        query = (
            select(earlier.version)
            .where(
                earlier.persona == activation.persona,
                earlier.activation_id < activation.activation_id,
                earlier.version < activation.version,
                ~rolled_back,
            )
            .order_by(earlier.activation_id.desc())
            .limit(1)
        )
        return self._session.scalar(query)

    def recent_activations(self, since: datetime) -> Sequence[Activation]:
        """The latest activation of each version that was activated since then or is active now."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona, Activation.version)
        active = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        query = select(Activation).where(
            Activation.activation_id.in_(newest),
            or_(Activation.activated_at >= since, Activation.activation_id.in_(active)),
        )
        return self._session.scalars(query.order_by(Activation.activation_id)).all()
