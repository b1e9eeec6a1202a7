"""People who are shut out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from config_rollback.storage.models import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "shut_out",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject"),
    )
