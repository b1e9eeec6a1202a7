"""Alembic environment: runs on the connection and in the transaction that `database.py` hands over."""

from __future__ import annotations

from alembic import context

from config_rollback.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
context.run_migrations()
