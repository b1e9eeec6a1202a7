"""The rules in a real Prometheus, whose scrapes and rule groups do not fall together as promtool's do."""

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from config_rollback.clock import utc_now
from config_rollback.errors import InvalidRequestError
from config_rollback.evidence.kpis import Kpis, Selection
from tests.rules.live import Exporter, running
from tests.support.monitoring import Prometheus

CHAT_1 = ("chat", "concierge", "1")
CHAT_2 = ("chat", "concierge", "2")
SUPPORT_1 = ("support", "concierge", "1")
GUIDANCE_1 = ("guidance", "coach", "1")
TOTAL = 'kpi:messages_total{scope="total",window="1h"}'


def _assert_counts(prometheus: Prometheus, name: str, expected: dict[tuple[str, str, str], int]) -> None:
    """Holds a counting KPI against the exact counts per version, in every scope and window.

    The rules of an evaluation are recorded one after the other, so that this one may be about to come.
    """
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for window in ("1h", "6h", "24h", "7d"):
        for scope, width in (("version", 3), ("persona", 2), ("journey", 1), ("total", 0)):
            for label_set, count in expected.items():
                kept = dict(zip(("journey", "persona", "config_version"), label_set[:width], strict=False))
                key = tuple(sorted({"scope": scope, "window": window, **kept}.items()))
                sums[key] = sums.get(key, 0) + count
    deadline = time.monotonic() + 300
    while (found := prometheus.query(name)) != sums and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == sums, name


def _kpis(prometheus: Prometheus, selection: Selection) -> dict[str, dict[str, Any]]:
    kpis: dict[str, dict[str, Any]] = anyio.run(Kpis(prometheus.url, utc_now).read, selection)["kpis"]
    return kpis


def test_counts_are_exact_and_a_bad_new_version_is_named(tmp_path: Path) -> None:
    exporter = Exporter(scoped_journeys=("chat", "support"))
    exporter.declare(CHAT_1)
    exporter.declare(GUIDANCE_1)
    with running(tmp_path, exporter) as asked:
        # Known, and not one message: zero, and no rate.
        asked.wait_for(TOTAL, 0)
        assert asked.query("kpi:out_of_scope_rate or kpi:llm_error_rate or kpi:p95_latency_ms") == {}

        for _ in range(20):
            exporter.count(CHAT_1, 19, seconds=0.4)
            exporter.count(CHAT_1, 1, seconds=0.9, out_of_scope=1)
            exporter.count(GUIDANCE_1, 7, seconds=2.0, errors=1)
        asked.wait_for(TOTAL, 540)
        _assert_counts(asked, "kpi:messages_total", {CHAT_1: 400, GUIDANCE_1: 140})
        _assert_counts(asked, "kpi:scoped_messages_total", {CHAT_1: 400})
        _assert_counts(asked, "kpi:out_of_scope_total", {CHAT_1: 20})
        _assert_counts(asked, "kpi:llm_errors_total", {CHAT_1: 0, GUIDANCE_1: 20})

        # A new version has 40 messages before its first scrape, 16 of them out of scope.
        exporter.predecessors["concierge", "2"] = "1"
        exporter.count(CHAT_2, 24, seconds=0.4)
        exporter.count(CHAT_2, 16, seconds=0.4, out_of_scope=16)
        asked.wait_for(TOTAL, 580)
        _assert_counts(asked, "kpi:messages_total", {CHAT_1: 400, CHAT_2: 40, GUIDANCE_1: 140})
        asked.wait_for('count(ALERTS{alertstate="firing",alertname="ConfigVersionRegression"})', 2)
        alerts = [a for a in asked.get("alerts")["alerts"] if a["labels"].get("config_version")]
        page, ticket = sorted(alerts, key=lambda alert: str(alert["labels"]["severity"]))
        assert ticket["labels"] == page["labels"] | {"severity": "ticket"}
        assert page["labels"] == {
            "alertname": "ConfigVersionRegression",
            "severity": "page",
            "kpi": "out_of_scope_rate",
            "journey": "chat",
            "persona": "concierge",
            "config_version": "2",
            "predecessor": "1",
        }
        assert page["annotations"]["rollback_url"] == (
            "http://127.0.0.1:9811/rollback/concierge?from=2&alert=ConfigVersionRegression"
        )

        # The exporter is away while it counts, then its state is lost: nothing is forgotten, nothing doubled.
        exporter.down = True
        asked.wait_for('up{job="exporter"}', 0)
        exporter.count(CHAT_1, 11, seconds=0.4)
        asked.wait_for(TOTAL, 580)
        exporter.down = False
        asked.wait_for(TOTAL, 591)
        exporter.lose_state("journal-2")
        exporter.count(CHAT_1, 5, seconds=0.4)
        asked.wait_for(TOTAL, 596)
        _assert_counts(asked, "kpi:messages_total", {CHAT_1: 416, CHAT_2: 40, GUIDANCE_1: 140})

        # A journey that no rule names, and that the label policy lets be out of scope.
        exporter.count(SUPPORT_1, 50, seconds=0.4, out_of_scope=10)
        asked.wait_for(TOTAL, 646)
        _assert_counts(asked, "kpi:scoped_messages_total", {CHAT_1: 416, CHAT_2: 40, SUPPORT_1: 50})
        _assert_counts(asked, "kpi:out_of_scope_total", {CHAT_1: 20, CHAT_2: 16, SUPPORT_1: 10})

        # What the KPI endpoint answers.
        kpis = _kpis(asked, Selection("1h", persona="coach"))
        assert (kpis["messages_total"]["value"], kpis["llm_error_rate"]["value"]) == (140, 20 / 140)
        p95_kpi = kpis["p95_latency_ms"]
        assert p95_kpi["low"] < 2000 < p95_kpi["high"] < 2500, "each took exactly 2 s"
        assert p95_kpi["low"] <= p95_kpi["value"] <= p95_kpi["high"]
        assert all(kpi["previous"] is None for kpi in kpis.values())
        support = _kpis(asked, Selection("1h", journey="support"))["out_of_scope_rate"]
        assert (support["numerator"], support["denominator"]) == (10, 50)
        assert (
            _kpis(asked, Selection("1h", journey="guidance"))["out_of_scope_rate"]["data_status"] == "no_data"
        )
        with pytest.raises(InvalidRequestError, match="there are chat, guidance, support"):
            _kpis(asked, Selection("1h", journey="suport"))

        rates = asked.query("kpi:out_of_scope_rate or kpi:llm_error_rate")
        assert rates
        assert all(0 <= rate <= 1 for rate in rates.values())
        p95 = asked.value('kpi:p95_latency_ms{scope="persona",window="1h",persona="coach"}')
        assert p95 == pytest.approx(2000, rel=0.2)  # the width of a bucket
        recorded = asked.get("query", query='{__name__=~"kpi:.+"}')["result"]
        assert not [sample["metric"] for sample in recorded if math.isnan(float(sample["value"][1]))]
        groups = asked.get("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_what_a_version_does_since_a_rollback_is_told_from_what_it_did_before(tmp_path: Path) -> None:
    exporter = Exporter()
    exporter.count(CHAT_1, 289, seconds=4.0, out_of_scope=100, errors=9)
    exporter.count(GUIDANCE_1, 7, seconds=0.4)

    def since(moment: datetime) -> dict[str, dict[str, Any]]:
        read: dict[str, dict[str, Any]] = anyio.run(
            Kpis(asked.url, utc_now).read_since, "concierge", "1", moment
        )
        return read

    with running(tmp_path, exporter) as asked:
        asked.wait_for(TOTAL, 296)
        rollback = utc_now()
        assert since(rollback)["messages_total"]["value"] == 0
        assert since(rollback)["p95_latency_ms"]["value"] is None
        exporter.count(CHAT_1, 4, seconds=0.4)
        exporter.count(CHAT_1, 1, seconds=0.4, out_of_scope=1)
        # A journey that was not seen before.
        exporter.count(SUPPORT_1, 2, seconds=0.4, errors=1)
        asked.wait_for(TOTAL, 303)
        kpis = since(rollback)
        assert kpis["messages_total"]["value"] == 7
        assert (kpis["out_of_scope_rate"]["numerator"], kpis["out_of_scope_rate"]["denominator"]) == (1, 5)
        assert kpis["llm_error_rate"]["numerator"] == 1
        assert kpis["p95_latency_ms"]["value"] < 1000
        exporter.lose_state("journal-2")
        exporter.count(CHAT_1, 3, seconds=0.4)
        asked.wait_for(TOTAL, 306)
        assert since(rollback)["messages_total"]["value"] == 10
