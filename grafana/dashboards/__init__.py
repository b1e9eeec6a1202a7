"""The dashboards, one module each; `grafana.build` writes those listed here."""

from collections.abc import Callable

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.dashboards import conversation, persona, pipeline

DASHBOARDS: tuple[Callable[[], Dashboard], ...] = (
    conversation.dashboard,
    persona.dashboard,
    pipeline.dashboard,
)
