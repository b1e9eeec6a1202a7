"""Which version each process serves, reported by one replica to the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Reports come again within a minute: a crash of PostgreSQL may empty the table; no WAL need be written.
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "serving",
        sa.Column("persona", sa.String(128), primary_key=True),
        sa.Column("client", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        prefixes=unlogged,
    )
    op.create_index("ix_serving_seen", "serving", ["seen_at"])
