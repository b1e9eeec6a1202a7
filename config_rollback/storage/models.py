"""Tables. A persona exists from its first version on; versions, activations and audit rows are append-only.

The triggers that enforce append-only are in the migrations: they hold for every client of the database.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC; SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, str: Text}  # noqa: RUF012 (SQLAlchemy's own idiom)


class Version(Base):
    """One immutable configuration of a persona, numbered from 1."""

    __tablename__ = "versions"

    persona: Mapped[str] = mapped_column(String(128), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content_hash: Mapped[str] = mapped_column(String(64))
    """SHA-256 of `config_json`, hexadecimal."""
    config_json: Mapped[str]
    """Canonical JSON, the exact bytes that were hashed."""
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    note: Mapped[str]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as data."""
        config: dict[str, Any] = json.loads(self.config_json)
        return config


class Activation(Base):
    """An entry of the log of which version served from when; the newest of a persona is the active one."""

    __tablename__ = "activations"
    __table_args__ = (
        ForeignKeyConstraint(["persona", "version"], ["versions.persona", "versions.number"]),
        ForeignKeyConstraint(["audit_id"], ["audit.audit_id"]),
        Index("ix_activations_persona", "persona", "activation_id"),
        Index("ix_activations_left", "persona", "action", "from_version"),
        Index("ix_activations_at", "activated_at"),
        Index("ix_activations_audit", "audit_id", unique=True),
    )

    activation_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    persona: Mapped[str] = mapped_column(String(128))
    version: Mapped[int]
    from_version: Mapped[int | None]
    """The version that was active before; none for the first."""
    action: Mapped[str] = mapped_column(String(16))
    """`publish` or `rollback`."""
    activated_at: Mapped[datetime]
    activated_by: Mapped[str]
    audit_id: Mapped[int]


class AuditRow(Base):
    """An attempt, done or not. `hash` chains it to the row before (see `audit.py`)."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_persona", "persona", "audit_id"),
        Index("ix_audit_actor", "actor", "audit_id"),
        Index("ix_audit_action", "action", "persona", "audit_id"),
    )

    audit_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    request_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str]
    role: Mapped[str]
    action: Mapped[str] = mapped_column(String(16))
    persona: Mapped[str | None] = mapped_column(String(128))
    from_version: Mapped[int | None]
    to_version: Mapped[int | None]
    status: Mapped[str] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None]
    alert: Mapped[str | None]
    issuer: Mapped[str | None]
    content_hash: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(server_default="1")
    previous_hash: Mapped[str] = mapped_column(String(80))
    hash: Mapped[str] = mapped_column(String(80))


class AuditHead(Base):
    """The newest audit row, in one row: what writers lock, and what betrays rows cut off the end."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    audit_id: Mapped[int]
    hash: Mapped[str] = mapped_column(String(80))


class IdempotencyRecord(Base):
    """What was answered to an actor's `Idempotency-Key`, written in the transaction of the act."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)

    issuer: Mapped[str] = mapped_column(primary_key=True)
    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request: the same key with another request is refused."""
    outcome_json: Mapped[str]
    created_at: Mapped[datetime]


class UsedToken(Base):
    """The id of a one-time login token that was used up; kept until the token is expired anyway."""

    __tablename__ = "used_tokens"
    __table_args__ = (Index("ix_used_tokens_expires_at", "expires_at"),)

    jti: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime]


class BrowserSession(Base):
    """A login in a browser. Only a hash of the cookie is kept, so the table opens no session."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_expires_at", "expires_at"),)

    cookie_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ShutOutPerson(Base):
    """A blocked person."""

    __tablename__ = "shut_out"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]


class Alert(Base):
    """An alert as Alertmanager last reported it, one row per fingerprint and start."""

    __tablename__ = "alerts"
    __table_args__ = (
        UniqueConstraint("fingerprint", "starts_at"),
        Index("ix_alerts_persona", "persona", "status"),
        Index("ix_alerts_updated_at", "updated_at"),
    )

    alert_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(String(16))
    """`firing` or `resolved`."""
    alertname: Mapped[str]
    persona: Mapped[str | None]
    config_version: Mapped[str | None]
    labels_json: Mapped[str]
    annotations_json: Mapped[str]
    received_at: Mapped[datetime]
    """When it was reported first."""
    updated_at: Mapped[datetime]
    """When it was reported last."""

    @property
    def labels(self) -> dict[str, str]:
        """All labels."""
        labels: dict[str, str] = json.loads(self.labels_json)
        return labels

    @property
    def annotations(self) -> dict[str, str]:
        """All annotations."""
        annotations: dict[str, str] = json.loads(self.annotations_json)
        return annotations


class ServingProcess(Base):
    """What a process last said to any replica: the version that it serves. Forgotten after a minute."""

    __tablename__ = "serving"
    __table_args__ = (Index("ix_serving_seen", "seen_at"),)

    persona: Mapped[str] = mapped_column(String(128), primary_key=True)
    client: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[int]
    seen_at: Mapped[datetime]
