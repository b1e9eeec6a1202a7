"""A person accepts a meant change: the command, the audit row, and the alerts that it ends."""

import json
from pathlib import Path
from urllib.parse import urlsplit

from tests.config_rollback.running import Service
from tests.rules.live import Exporter, LabelSet, running
from tests.support.commands import run
from tests.support.rollback import rollback
from tests.support.stacks import DRIFTBACK

GOOD: LabelSet = ("chat", "concierge", "1")
MEANT: LabelSet = ("chat", "concierge", "2")
FIRING = 'count(ALERTS{alertstate="firing",persona="concierge"}) or vector(0)'


def _driftback(service: Service, *arguments: str) -> str:
    return run(DRIFTBACK, *arguments, "--url", service.url, "--token", service.token())


def test_accepting_a_change_is_audited_and_ends_the_alerts(tmp_path: Path) -> None:
    exporter = Exporter()
    exporter.declare(GOOD, age_seconds=30 * 3600)
    exporter.count(GOOD, 10_000, seconds=0.4, out_of_scope=300)
    with rollback(tmp_path) as service:
        for prompt in ("Orders.", "Orders, and more."):
            service.publish("concierge", system_prompt=prompt)
        address = urlsplit(service.url).netloc
        with running(tmp_path, exporter, config_rollback=address) as asked:
            asked.wait_for('count(kpi:drift:baseline{kpi="out_of_scope_rate"})', 1)
            exporter.count(MEANT, 1, seconds=0.4)
            # Evidence is of versions that are known to serve, which another group of rules finds out.
            asked.wait_for('kpi:serving{config_version="2"}', 1)
            exporter.count(MEANT, 39, seconds=0.4, out_of_scope=20)
            # As ticket and page each: the drift, and the version that is worse than its predecessor.
            asked.wait_for(FIRING, 4)

            _driftback(
                service, "persona", "accept", "concierge", "--reason", "it sells now", "--yes", "--json"
            )
            asked.wait_for(FIRING, 0)
            exporter.count(MEANT, 40, seconds=0.4, out_of_scope=20)
            asked.wait_for('kpi:messages_total{scope="total",window="1h"}', 80)
            asked.wait_for(FIRING, 0)
        (row, *_) = json.loads(_driftback(service, "audit", "list", "--json"))
    assert (row["action"], row["status"], row["actor"], row["reason"]) == (
        "accept_baseline",
        "succeeded",
        "ann",
        "it sells now",
    )
