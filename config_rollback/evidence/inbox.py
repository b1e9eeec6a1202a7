"""Webhook messages of Alertmanager (version 4) and of Grafana (version 1), as far as they are kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from config_rollback.rollback.lengths import MAX_ALERT_LENGTH
from config_rollback.storage.models import Alert

MAX_ALERTS = 2_000
"""Per message; a larger group needs Alertmanager's `max_alerts`."""
HEARD_WITHIN = timedelta(hours=5)
"""Alertmanager repeats what fires, every four hours in prometheus/alertmanager.yml."""
NO_END_YEAR = 1
"""Alertmanager writes an end that is not known as Go's zero time, in the year 1."""


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year must be from 1 to 9999") from None


Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""PostgreSQL cannot store the NUL character."""
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


def unheard(alert: Alert, now: datetime) -> bool:
    """Whether Alertmanager no longer repeats a firing alert: it never reports the end of a silenced one."""
    return alert.status == "firing" and now - alert.updated_at > HEARD_WITHIN


class WebhookAlert(BaseModel):
    """One alert of a message. Fields that this service does not read may come and go."""

    model_config = ConfigDict(extra="ignore")

    status: Literal["firing", "resolved"]
    labels: dict[str, Text]
    annotations: dict[str, str] = {}
    startsAt: Moment  # noqa: N815 (Alertmanager's name)
    endsAt: Moment | None = None  # noqa: N815
    fingerprint: Annotated[Text, Field(min_length=1, max_length=64)]
    dashboardURL: str = ""  # noqa: N815 (Grafana's alone; empty for a rule without a dashboard)

    def as_row(self, now: datetime) -> dict[str, Any]:
        """The alert as it is stored, by column."""
        annotations = {"dashboard_url": self.dashboardURL} if self.dashboardURL else {}
        ended = self.status == "resolved" and self.endsAt is not None and self.endsAt.year > NO_END_YEAR
        return {
            "fingerprint": self.fingerprint,
            "starts_at": self.startsAt,
            "ends_at": self.endsAt if ended else None,
            "status": self.status,
            "alertname": self.labels.get("alertname", "")[:MAX_ALERT_LENGTH],
            "persona": self.labels.get("persona"),
            "config_version": self.labels.get("config_version"),
            "labels_json": json.dumps(self.labels, sort_keys=True),
            "annotations_json": json.dumps(annotations | self.annotations, sort_keys=True),
            "received_at": now,
            "updated_at": now,
        }


class WebhookMessage(BaseModel):
    """A message: alerts of one group. It is repeated, so the same alert comes many times.

    Grafana's differs by fields that are not read here (`orgId`, `title`, `state`, `message`).
    """

    model_config = ConfigDict(extra="ignore")

    version: Literal["1", "4"]
    alerts: list[WebhookAlert] = Field(max_length=MAX_ALERTS)
