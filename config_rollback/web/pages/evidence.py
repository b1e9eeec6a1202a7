"""The KPI of two versions side by side, as far as Prometheus can tell in a bounded time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from config_rollback.errors import MonitoringUnavailableError
from config_rollback.evidence.kpis import Kpis, Selection
from config_rollback.storage.models import Activation

WAIT_SECONDS = 2.0
"""How long a page waits for Prometheus before it is shown without."""
WINDOWS = ("1h", "24h", "7d")

Measured = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Evidence:
    """The KPI of each version over one window; `problem` says why there are none.

    What was `restored` counts from that activation on: what it served before is not what came of it.
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
    found: dict[tuple[str, int], Measured] = {}
    after: dict[int, Measured] = {}
    problems: list[str] = []

    async def ask(window: str, version: int) -> None:
        selection = Selection(window, persona=persona, config_version=str(version))
        try:
            found[window, version] = (await kpis.read(selection))["kpis"]
        except MonitoringUnavailableError as error:
            problems.append(error.message)

    async def ask_since(activation: Activation) -> None:
        version, moment = activation.version, activation.activated_at
        try:
            after[version] = await kpis.read_since(persona, str(version), moment)
        except MonitoringUnavailableError as error:
            problems.append(error.message)

    with anyio.move_on_after(WAIT_SECONDS) as waiting:
        async with anyio.create_task_group() as group:
            for window in WINDOWS:
                for version in versions:
                    group.start_soon(ask, window, version)
            if restored is not None:
                group.start_soon(ask_since, restored)
    if waiting.cancelled_caught:
        problems.append("Prometheus does not answer in time")
    if problems:
        return Evidence(WINDOWS[0], {}, problems[0])
    for window in WINDOWS:
        measured = {version: found[window, version] for version in versions}
        if all(kpis["messages_total"]["value"] for kpis in measured.values()):
            break
    return Evidence(window, measured | after, restored=restored)
