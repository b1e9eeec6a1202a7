"""First schema: versions, activations, audit chain, idempotency keys, logins, alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

GENESIS = "0" * 64
APPEND_ONLY = {
    "audit": "NEW.audit_id = audit_id",
    "activations": "NEW.activation_id = activation_id",
    "versions": "NEW.persona = persona AND NEW.number = number",
}
"""Tables that only grow, each with the test whether a new row would replace an old one."""


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "versions",
        sa.Column("persona", sa.String(128), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("config_json", sa.Text, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("persona", sa.String(128)),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("reason", sa.Text),
        sa.Column("alert", sa.Text),
        sa.Column("previous_hash", sa.String(80), nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
    )
    op.create_index("ix_audit_persona", "audit", ["persona", "audit_id"])
    op.create_index("ix_audit_actor", "audit", ["actor", "audit_id"])
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("audit_id", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "audit_id": 0, "hash": GENESIS}])
    op.create_table(
        "activations",
        sa.Column("activation_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("persona", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("activated_at", moment, nullable=False),
        sa.Column("activated_by", sa.Text, nullable=False),
        sa.Column("audit_id", sa.Integer, sa.ForeignKey("audit.audit_id"), nullable=False),
        sa.ForeignKeyConstraint(["persona", "version"], ["versions.persona", "versions.number"]),
    )
    op.create_index("ix_activations_persona", "activations", ["persona", "activation_id"])
    op.create_index("ix_activations_left", "activations", ["persona", "action", "from_version"])
    op.create_index("ix_activations_at", "activations", ["activated_at"])
    op.create_table(
        "idempotency",
        sa.Column("actor", sa.Text, primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("outcome_json", sa.Text, nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_table(
        "used_tokens",
        sa.Column("jti", sa.String(64), primary_key=True),
        sa.Column("expires_at", moment, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("cookie_hash", sa.String(64), primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("revoked_at", moment),
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("starts_at", moment, nullable=False),
        sa.Column("ends_at", moment),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("alertname", sa.Text, nullable=False),
        sa.Column("persona", sa.Text),
        sa.Column("config_version", sa.Text),
        sa.Column("labels_json", sa.Text, nullable=False),
        sa.Column("annotations_json", sa.Text, nullable=False),
        sa.Column("received_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.UniqueConstraint("fingerprint", "starts_at"),
    )
    op.create_index("ix_alerts_persona", "alerts", ["persona", "status"])
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgresql()


def _guard_sqlite() -> None:
    for table, replaces in APPEND_ONLY.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}")
        # INSERT OR REPLACE deletes without firing a DELETE trigger, unless the connection asks for it.
        twice = f"EXISTS (SELECT 1 FROM {table} WHERE {replaces})"  # noqa: S608 (constants)
        op.execute(f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {twice} {refuse}")


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        # Per statement: TRUNCATE fires no row trigger, and an UPDATE of no row is refused too.
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
