"""An index that finds accepted baselines; on PostgreSQL the triggers work in replication mode too."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("audit", "activations", "versions")


def upgrade() -> None:
    op.create_index("ix_audit_action", "audit", ["action", "persona", "audit_id"])
    # An ordinary trigger does not fire for a session with `session_replication_role = replica`.
    if op.get_bind().dialect.name != "sqlite":
        for table in APPEND_ONLY:
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_append_only")
