"""Which version each process serves (PostgreSQL only: SQLite has one replica)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, or_, select, tuple_

from config_rollback.storage.models import ServingProcess
from config_rollback.storage.queries import Queries


class Serving(Queries):
    """Which version each process serves (PostgreSQL only: SQLite has one replica)."""

    def serving(
        self, since: datetime, persona: str | None = None
    ) -> Sequence[tuple[str, str, int, datetime]]:
        """Persona, process, version and moment of each report since then."""
        query = select(
            ServingProcess.persona, ServingProcess.client, ServingProcess.version, ServingProcess.seen_at
        ).where(ServingProcess.seen_at >= since)
        if persona is not None:
            query = query.where(ServingProcess.persona == persona)
        return [(of, client, version, at) for of, client, version, at in self._session.execute(query)]

    def note_serving(
        self, reports: Sequence[tuple[str, str, int, datetime]], forget: datetime, keep: int
    ) -> None:
        """Keeps reports, in the order of persona and process, unless a newer one is there (PostgreSQL only).

        Those before `forget`, and the oldest where there are more than `keep`, go.
        """
        from sqlalchemy.dialects import postgresql

        table = ServingProcess.__table__
        row = postgresql.insert(ServingProcess)
        newer = {"version": row.excluded.version, "seen_at": row.excluded.seen_at}
        upsert = row.on_conflict_do_update(
            index_elements=["persona", "client"],
            set_=newer,
            where=ServingProcess.seen_at <= row.excluded.seen_at,
        )
        self._session.execute(
            upsert, [dict(zip(table.columns.keys(), report, strict=True)) for report in reports]
        )
        newest_first = select(ServingProcess.seen_at).order_by(ServingProcess.seen_at.desc())
        oldest_kept = newest_first.offset(keep - 1).limit(1)
        key = (ServingProcess.persona, ServingProcess.client)
        old = or_(ServingProcess.seen_at < forget, ServingProcess.seen_at < oldest_kept.scalar_subquery())
        # What another replica is writing just now is not old: waiting for it could end in a deadlock.
        gone = select(*key).where(old).with_for_update(skip_locked=True)
        self._session.execute(delete(ServingProcess).where(tuple_(*key).in_(gone)))
