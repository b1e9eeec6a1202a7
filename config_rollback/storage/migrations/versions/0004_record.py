"""Audit rows name the actor's issuer and the content of a version; each activation has its own row.

Older rows keep their scheme and do not change. Older sessions do not name an issuer, so they end.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _refuse_shared_rows()
    op.add_column("audit", sa.Column("issuer", sa.Text))
    op.add_column("audit", sa.Column("content_hash", sa.String(64)))
    op.add_column("audit", sa.Column("attempts", sa.Integer, nullable=False, server_default="1"))
    op.create_index("ix_activations_audit", "activations", ["audit_id"], unique=True)
    _guard_replace()
    op.execute("DELETE FROM sessions")
    op.add_column("sessions", sa.Column("issuer", sa.Text, nullable=False, server_default=""))
    op.add_column("idempotency", sa.Column("issuer", sa.Text, nullable=False, server_default="driftback"))
    _key_idempotency()


def _refuse_shared_rows() -> None:
    """The service adds a row with each activation: a second activation of a row was added behind it."""
    shared = op.get_bind().execute(
        sa.text("SELECT audit_id FROM activations GROUP BY audit_id HAVING count(*) > 1 ORDER BY audit_id")
    )
    if rows := [str(row[0]) for row in shared]:
        raise RuntimeError(
            f"two activations name audit row {', '.join(rows)}: one was added behind the service; "
            'see "When the audit log does not match" in docs/operations.md'
        )


def _guard_replace() -> None:
    """SQLite: INSERT OR REPLACE deletes what a unique index finds, without firing a DELETE trigger."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER activations_no_replace")
        op.execute(
            "CREATE TRIGGER activations_no_replace BEFORE INSERT ON activations WHEN EXISTS (SELECT 1"
            " FROM activations WHERE NEW.activation_id = activation_id OR NEW.audit_id = audit_id)"
            " BEGIN SELECT RAISE(ABORT, 'activations is append-only'); END"
        )


def _key_idempotency() -> None:
    """SQLite cannot change a primary key: there the table is created again."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute(
            "ALTER TABLE idempotency DROP CONSTRAINT idempotency_pkey,"
            " ADD CONSTRAINT idempotency_pkey PRIMARY KEY (issuer, actor, key)"
        )
        return
    op.execute("ALTER TABLE idempotency RENAME TO idempotency_before")
    op.create_table(
        "idempotency",
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("outcome_json", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "actor", "key"),
    )
    op.execute("INSERT INTO idempotency SELECT * FROM idempotency_before")
    op.drop_table("idempotency_before")
