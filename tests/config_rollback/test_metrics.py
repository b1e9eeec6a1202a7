"""The service's own metrics."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from driftback_server.stack.components import ensure
from tests.config_rollback.running import Service


def samples(service: Service) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of /metrics."""
    text = service.request("GET", "/metrics", token=None).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(service: Service, name: str, **labels: str) -> float | None:
    return samples(service).get((name, frozenset(labels.items())))


def test_counters_start_at_zero(start: Callable[..., Service]) -> None:
    service = start()
    for status in ("succeeded", "refused", "failed"):
        assert value(service, "config_rollbacks_total", status=status) == 0
    for status in ("firing", "resolved"):
        assert value(service, "config_alerts_received_total", status=status) == 0
    assert value(service, "config_audit_failures_total") == 0
    service.publish()
    again = start()
    for action in ("publish", "rollback"):
        assert value(again, "config_activations_total", persona="concierge", action=action) == 0


def test_what_happened_is_counted(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    service.roll_back(expected_version=1)
    service.roll_back(expected_version=2)
    service.roll_back(expected_version=2, token=service.token("support"))
    assert value(service, "config_activations_total", persona="concierge", action="publish") == 2
    assert value(service, "config_activations_total", persona="concierge", action="rollback") == 1
    assert value(service, "config_rollbacks_total", status="succeeded") == 1
    assert value(service, "config_rollbacks_total", status="refused") == 2


def test_the_active_version_and_the_predecessors(service: Service) -> None:
    service.publish()
    service.publish(temperature=1)
    service.publish("coach")
    assert value(service, "config_active_version", persona="concierge") == 2
    assert value(service, "config_active_version", persona="coach") == 1
    info = {
        dict(labels)["config_version"]: dict(labels)["predecessor"]
        for name, labels in samples(service)
        if name == "config_version_predecessor_info" and dict(labels)["persona"] == "concierge"
    }
    assert info == {"2": "1"}
    service.roll_back(expected_version=2)
    assert value(service, "config_active_version", persona="concierge") == 1


def test_a_persona_with_quotes_and_line_noise_forges_no_series(service: Service) -> None:
    names = ['a"} 1\\n # x{y="', "\\", "{}=,~! %d {0}", "例子 😀"]
    for name in names:
        service.publish(name)
        assert value(service, "config_active_version", persona=name) == 1
    scrape = service.request("GET", "/metrics", token=None).text
    assert scrape.count("\nconfig_active_version{") == len(names)
    promtool = ensure(["promtool"])["promtool"]
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
