"""The alerts inbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, tuple_, update

from config_rollback.storage.models import Alert
from config_rollback.storage.queries import Queries

LATE_WITHIN = timedelta(seconds=15)
"""How long a message of Alertmanager may take; the message about the end of the alert may overtake it."""


class Alerts(Queries):
    """The alerts inbox."""

    def record_alerts(self, reported: Sequence[dict[str, Any]]) -> int:
        """Adds alerts, or updates the known ones, in the given order; returns how many were new.

        An alert is given by its columns. The number of statements does not depend on how many there are.
        """
        keys = {(alert["fingerprint"], alert["starts_at"]) for alert in reported}
        columns = (Alert.fingerprint, Alert.starts_at, Alert.alert_id, Alert.status, Alert.updated_at)
        found = self._session.execute(
            select(*columns).where(tuple_(Alert.fingerprint, Alert.starts_at).in_(keys))
        )
        rows: dict[tuple[str, datetime], dict[str, Any]] = {
            (fingerprint, starts_at): {"alert_id": number, "status": status, "updated_at": updated_at}
            for fingerprint, starts_at, number, status, updated_at in found
        }
        for alert in reported:
            row = rows.setdefault((alert["fingerprint"], alert["starts_at"]), dict(alert))
            since = alert["updated_at"] - row["updated_at"]
            if row["status"] == "resolved" and alert["status"] == "firing" and since < LATE_WITHIN:
                continue  # a late copy does not make it fire again; a later report does
            changed = ("status", "ends_at", "annotations_json", "updated_at")
            row.update((name, alert[name]) for name in changed)
        new = [row for row in rows.values() if "alert_id" not in row]
        if new:
            self._session.execute(insert(Alert), new)
        if known := [row for row in rows.values() if "ends_at" in row and "alert_id" in row]:
            self._session.execute(update(Alert), known)
        return len(new)

    def alerts(self, limit: int, persona: str | None = None, status: str | None = None) -> Sequence[Alert]:
        """The alerts that were reported last, newest start first, so that ended alerts hide no firing one."""
        query = select(Alert).order_by(Alert.updated_at.desc(), Alert.alert_id.desc()).limit(limit)
        if persona is not None:
            query = query.where(Alert.persona == persona)
        if status is not None:
            query = query.where(Alert.status == status)
        found = self._session.scalars(query).all()
        return sorted(found, key=lambda alert: (alert.starts_at, alert.alert_id), reverse=True)
