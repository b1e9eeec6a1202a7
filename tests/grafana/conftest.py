"""What the dashboards and the links in alerts are tested against: one Prometheus, with what is around it."""

import time
import warnings
from collections.abc import Iterator

import pytest
import requests

from tests.config_rollback.running import Service
from tests.grafana import live, model
from tests.grafana.model import Json
from tests.support import monitoring
from tests.support.rollback import rollback as config_rollback

with warnings.catch_warnings():
    # The SDK says once that dashboards v2 are better; Grafana before 12 cannot load them.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2.Dashboard", DeprecationWarning)
    import grafana.build  # noqa: F401


@pytest.fixture(scope="session")
def rollback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A config_rollback in which version 2 of every odd persona is active."""
    with config_rollback(tmp_path_factory.mktemp("rollback")) as running:
        for persona in model.ODD_PERSONAS:
            running.publish(persona)
            running.publish(persona, temperature=0.9)
        yield running


@pytest.fixture(scope="session")
def alertmanager(rollback: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of an Alertmanager with the committed routes."""
    with monitoring.alertmanager(tmp_path_factory.mktemp("alertmanager"), rollback.url) as address:
        yield address


@pytest.fixture(scope="session")
def prometheus(
    rollback: Service, alertmanager: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[live.Prometheus]:
    """A Prometheus that knows every odd persona; the first one has eight days of raw counters."""
    folder = tmp_path_factory.mktemp("prometheus")
    with live.prometheus(
        folder, model.ODD_PERSONAS, alertmanager=alertmanager, rollback_url=rollback.url
    ) as running:
        yield running


@pytest.fixture(scope="session")
def alerts(prometheus: live.Prometheus, alertmanager: str) -> dict[str, Json]:
    """The annotations of ConfigVersionRegression as Alertmanager has them, by persona.

    The rule is the committed one: version 2 has ten times the out-of-scope rate of version 1.
    """
    query = {"filter": ['alertname="ConfigVersionRegression"', 'kpi="out_of_scope_rate"', 'predecessor!=""']}
    deadline = time.monotonic() + 300
    while True:
        found = requests.get(f"http://{alertmanager}/api/v2/alerts", params=query, timeout=10).json()
        annotations = {alert["labels"]["persona"]: alert["annotations"] for alert in found}
        if annotations.keys() >= set(model.ODD_PERSONAS):
            return annotations
        assert time.monotonic() < deadline, sorted(annotations)
        time.sleep(0.2)
