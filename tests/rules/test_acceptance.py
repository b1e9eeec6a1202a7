"""A person accepts a meant change: the command, the audit row, and the alerts that it ends."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from config_rollback.auth.tokens import mint_access_token
from config_rollback.clock import utc_now
from tests.grafana import services
from tests.rules.live import Exporter, LabelSet, running

GOOD: LabelSet = ("chat", "concierge", "1")
MEANT: LabelSet = ("chat", "concierge", "2")
FIRING = 'count(ALERTS{alertstate="firing",persona="concierge"}) or vector(0)'
DRIFTBACK = Path(sys.executable).parent / "driftback"


def _driftback(url: str, *arguments: str) -> str:
    token = mint_access_token(
        services.SECRET, subject="ann", role="ops", lifetime_seconds=600, now=utc_now().timestamp()
    )
    command = [str(DRIFTBACK), *arguments, "--url", url, "--token", token]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_accepting_a_change_is_audited_and_ends_the_alerts(prometheus: Path, tmp_path: Path) -> None:
    (state := tmp_path / "rollback").mkdir()
    exporter = Exporter()
    exporter.declare(GOOD, age_seconds=30 * 3600)
    exporter.count(GOOD, 10_000, seconds=0.4, out_of_scope=300)
    with services.rollback(state) as rollback:
        for note in ("orders", "orders, and more"):
            rollback.publish("concierge", note)
        address = urlsplit(rollback.url).netloc
        with running(prometheus, tmp_path, exporter, config_rollback=address) as asked:
            asked.wait_for('count(kpi:drift:baseline{kpi="out_of_scope_rate"})', 1)
            exporter.count(MEANT, 1, seconds=0.4)
            # Evidence is of versions that are known to serve, which another group of rules finds out.
            asked.wait_for('kpi:serving{config_version="2"}', 1)
            exporter.count(MEANT, 39, seconds=0.4, out_of_scope=20)
            # As ticket and page each: the drift, and the version that is worse than its predecessor.
            asked.wait_for(FIRING, 4)

            _driftback(
                rollback.url, "persona", "accept", "concierge", "--reason", "it sells now", "--yes", "--json"
            )
            asked.wait_for(FIRING, 0)
            exporter.count(MEANT, 40, seconds=0.4, out_of_scope=20)
            asked.wait_for('kpi:messages_total{scope="total",window="1h"}', 80)
            asked.wait_for(FIRING, 0)
        (row, *_) = json.loads(_driftback(rollback.url, "audit", "list", "--json"))
    assert (row["action"], row["status"], row["actor"], row["reason"]) == (
        "accept_baseline",
        "succeeded",
        "ann",
        "it sells now",
    )
