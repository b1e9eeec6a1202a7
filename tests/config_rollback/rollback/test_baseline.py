"""Accepting what a persona does as the new normal: audited, shown as a metric, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.config_rollback.running import Service
from tests.config_rollback.test_metrics import value
from tests.config_rollback.web.test_api_ops import error

PATH = "/v1/ops/personas/concierge/baseline"
METRIC = "config_baseline_accepted_timestamp_seconds"


def accept(service: Service, *, key: str | None = "k", token: str = "", **body: Any) -> Any:
    return service.request("POST", PATH, json=body, headers={"Idempotency-Key": key}, token=token)


def test_it_is_audited_and_told_to_the_rules_and_changes_no_configuration(drifted: Service) -> None:
    assert value(drifted, METRIC, persona="concierge") is None
    activations = drifted.database.content()["activations"]
    data = accept(drifted, expected_version=2, reason="it answers about orders now").json()["data"]
    assert data == {
        "persona": "concierge",
        "version": 2,
        "audit_id": 3,
        "accepted_at": "2026-03-01T12:00:00.000000Z",
    }
    row = drifted.audit()[-1]
    assert (row["action"], row["status"], row["from_version"], row["reason"]) == (
        "accept_baseline",
        "succeeded",
        2,
        "it answers about orders now",
    )
    assert value(drifted, METRIC, persona="concierge") == drifted.clock().timestamp()
    assert drifted.database.content()["activations"] == activations
    drifted.clock.move(hours=1)
    assert accept(drifted, expected_version=2, reason="it answers about orders now").json()["data"] == data
    accept(drifted, key="another", expected_version=2)
    assert value(drifted, METRIC, persona="concierge") == drifted.clock().timestamp()


def test_it_is_refused_where_something_else_serves_meanwhile(drifted: Service) -> None:
    assert error(accept(drifted, expected_version=1)) == (409, "config_changed_since_alert")
    assert error(accept(drifted, key=None, expected_version=2)) == (400, "idempotency_key_missing")
    assert error(accept(drifted, token=drifted.token("support"), expected_version=2)) == (403, "forbidden")
    assert [row["status"] for row in drifted.audit()[2:]] == ["failed", "failed"]
    assert value(drifted, METRIC, persona="concierge") is None


def test_dashboards_learn_where_the_service_is(service: Service) -> None:
    assert value(service, "config_rollback_info", external_url=service.url) == 1
