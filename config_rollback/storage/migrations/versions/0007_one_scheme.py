"""The audit takes rows of the present scheme alone: a replica of an old version cannot break the chain."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


REFUSAL = "the audit takes rows of scheme 2 alone"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_scheme BEFORE INSERT ON audit WHEN NEW.hash NOT LIKE '2:%'"
            f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )
        return
    # A trigger, as the other guards: it reads no row that is there, and making it keeps nobody from reading.
    op.execute(
        "CREATE FUNCTION refuse_scheme() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_scheme BEFORE INSERT ON audit FOR EACH ROW"
        " WHEN (NEW.hash NOT LIKE '2:%') EXECUTE FUNCTION refuse_scheme()"
    )
    op.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_scheme")
