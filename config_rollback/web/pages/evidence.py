"""The KPIs of two versions side by side, if Prometheus answers in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from config_rollback.errors import MonitoringUnavailableError
from config_rollback.evidence.kpis import Kpis, Selection
from config_rollback.storage.models import Activation

WAIT_SECONDS = 2.0
"""How long a page waits for Prometheus before it is shown without."""
WINDOWS = ("1h", "24h", "7d")

Measured = Mapping[str, Mapping[str, Any]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Evidence:
    """The KPI of each version over one window; `problem` says why there are none.

    The `restored` version counts from that activation on: the rollback did not cause earlier messages.
    """

    window: str
    versions: Mapping[int, Measured]
    problem: str | None = None
    restored: Activation | None = None

    @property
    def quiet(self) -> bool:
        """Whether none of the versions had a message."""
        return not any(kpis["messages_total"]["value"] for kpis in self.versions.values())

    def worse(self, version: int, kpi: str) -> bool:
        """Whether a rate or p95 lies above another version's with no overlap of their 95% intervals."""
        low = self.versions[version][kpi]["low"]
        highs = [measured[kpi]["high"] for number, measured in self.versions.items() if number != version]
        return low is not None and any(high is not None and high < low for high in highs)


async def collect(
    kpis: Kpis, persona: str, versions: tuple[int, ...], restored: Activation | None = None
) -> Evidence:
    """Asks for all at once. Never raises: what a page says without Prometheus is in `problem`.

    The window is the shortest in which all `versions` had messages, else the longest.
    """
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await _collect(kpis, persona, versions, restored)
    except MonitoringUnavailableError as error:
        problem = error.message
    except TimeoutError:
        problem = "Prometheus does not answer in time"
    except Exception:  # whatever it is: the button of the page does not need the figures
        log.exception("evidence_failed")
        problem = "the KPI could not be read: see the log"
    return Evidence(WINDOWS[0], {}, problem)


async def _collect(
    kpis: Kpis, persona: str, versions: tuple[int, ...], restored: Activation | None
) -> Evidence:
    async def read(window: str, version: int) -> Measured:
        selection = Selection(window, persona=persona, config_version=str(version))
        found: Measured = (await kpis.read(selection))["kpis"]
        return found

    async def read_since() -> dict[int, Measured]:
        if restored is None:
            return {}
        number, moment = restored.version, restored.activated_at
        return {number: await kpis.read_since(persona, str(number), moment)}

    asked = [(window, version) for window in WINDOWS for version in versions]
    answers, after = await asyncio.gather(asyncio.gather(*(read(*one) for one in asked)), read_since())
    found = dict(zip(asked, answers, strict=True))
    for window in WINDOWS:
        measured = {version: found[window, version] for version in versions}
        if all(kpis["messages_total"]["value"] for kpis in measured.values()):
            break
    return Evidence(window, measured | after, restored=restored)
