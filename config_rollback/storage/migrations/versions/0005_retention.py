"""Indexes that find the old rows to delete."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

INDEXES = {
    "sessions": "expires_at",
    "used_tokens": "expires_at",
    "idempotency": "created_at",
    "alerts": "updated_at",
}


def upgrade() -> None:
    for table, column in INDEXES.items():
        op.create_index(f"ix_{table}_{column}", table, [column])
