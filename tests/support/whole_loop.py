"""What Driftback is for, once around, against a deployment with the example services and their traffic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import requests
import yaml

from tests.support.stacks import ROOT, wait_for

PERSONA = "concierge"


def whole_loop(
    config_rollback: str, alertmanager: str, ops: dict[str, str], replicas: Sequence[str] = ()
) -> dict[str, Any]:
    """A bad version goes out, is named, and is rolled back; returns the alert that named it.

    The persona's version 1 is published already. `ops` are the headers of someone who may roll back.
    `replicas` are all of config_rollback where it is more than one.
    """

    def data(path: str) -> Any:
        try:
            answer = requests.get(config_rollback + path, headers=ops, timeout=10)
        except requests.RequestException:
            return None
        return answer.json().get("data")

    def post(path: str, body: dict[str, Any]) -> requests.Response:
        headers = {**ops, "Idempotency-Key": str(uuid.uuid4())}
        return requests.post(config_rollback + path, json=body, headers=headers, timeout=10)

    def active() -> int | None:
        rows = data("/v1/ops/personas") or []
        return next((row["active_version"] for row in rows if row["persona"] == PERSONA), None)

    def serving(version: int) -> bool:
        """Whether every process that follows the persona serves that version."""
        metrics = [requests.get(f"{url}/metrics", timeout=10).text for url in replicas or [config_rollback]]
        lines = [line for text in metrics for line in text.splitlines() if line.startswith("config_clients{")]
        served = [line for line in lines if f'persona="{PERSONA}"' in line and not line.endswith(" 0.0")]
        return bool(served) and all(f'config_version="{version}"' in line for line in served)

    def messages() -> float:
        kpis = data("/v1/ops/monitoring/conversation-kpis?window=1h&journey=chat")
        return float(kpis["kpis"]["messages_total"]["value"] or 0) if kpis else 0.0

    def alerts(version: int) -> list[dict[str, Any]]:
        wanted = [f'persona="{PERSONA}"', f'config_version="{version}"']
        answer = requests.get(
            f"{alertmanager}/api/v2/alerts", params={"active": "true", "filter": wanted}, timeout=10
        )
        found: list[dict[str, Any]] = answer.json()
        return found

    wait_for("first version", 180, lambda: active() == 1, pause=1)
    wait_for("followers", 60, lambda: serving(1), pause=1)
    wait_for("healthy chat messages", 300, lambda: messages() >= 60, pause=2)
    document = yaml.safe_load((ROOT / "examples" / "personas" / f"{PERSONA}-careless.yaml").read_text())
    published = post(
        f"/v1/ops/personas/{PERSONA}/versions", {"config": document["config"], "note": document["note"]}
    )
    assert published.json()["data"]["version"] == 2, published.text
    alert = wait_for("alert, at the clock of production", 240, lambda: alerts(2), pause=2)[0]

    rolled_back = post(
        f"/v1/ops/personas/{PERSONA}/rollback", {"expected_version": 2, "alert": "ConfigVersionRegression"}
    )
    assert rolled_back.status_code == 200, rolled_back.text
    clicked = time.monotonic()
    wait_for("restored configuration", 5, lambda: serving(1), pause=0.1)
    print(f"restored after {time.monotonic() - clicked:.1f} s")
    wait_for("resolved alert", 600, lambda: not alerts(2), pause=2)
    row = data("/v1/ops/audit")[0]
    found = (row["action"], row["status"], row["from_version"], row["to_version"])
    assert found == ("rollback", "succeeded", 2, 1)
    assert data("/v1/ops/audit/verify")["valid"] is True
    return alert
