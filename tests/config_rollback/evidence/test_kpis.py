"""The KPI endpoint: one query, four KPI, honest about what they rest on."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import anyio
import promql_parser
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_mock import Mocker

import config_rollback.evidence.kpis
from config_rollback.errors import InvalidRequestError, MonitoringUnavailableError
from config_rollback.evidence.kpis import (
    TOTAL_SECONDS,
    Answer,
    Kpis,
    Selection,
    expression,
    expression_since,
    p95_interval,
    summarise,
    wilson_interval,
)
from driftback.contract import LATENCY_BOUNDS
from tests.config_rollback.running import Clock, Service
from tests.config_rollback.web.test_api_ops import error

HEALTHY = {
    "messages": 1000.0,
    "scoped_messages": 800.0,
    "out_of_scope": 40.0,
    "llm_errors": 10.0,
    "p95_latency_ms": 1234.5,
    "p95_low": 1100.0,
    "p95_high": 1400.0,
    "previous_messages": 500.0,
    "previous_scoped_messages": 400.0,
    "previous_out_of_scope": 8.0,
    "previous_llm_errors": 1.0,
    "previous_p95_latency_ms": 1000.0,
    "coverage": 1.0,
    "age_seconds": 12.0,
    "exporter_up": 1.0,
}


class Prometheus:
    """Answers every query with `values`, or with `raw` as it is. A page asks several at once.

    `p95_low` and `p95_high` are answered as the bounds of the bucket of the slowest tenth.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = dict(HEALTHY)
        self.journeys: list[str] = []
        self.raw: tuple[int, bytes] | None = None
        self.queries: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                query = parse_qs(body)["query"][0]
                outer.queries.append(query)
                status, content = outer.raw or (200, outer.answer(query))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def values_of(self, query: str) -> dict[str, float]:
        """For a test that tells queries apart."""
        return self.values

    def answer(self, query: str) -> bytes:
        values = self.values_of(query)
        rows = [{"metric": {"kpi": name}, "value": [0, str(value)]} for name, value in values.items()]
        messages = values.get("messages", 0.0)
        for name, share in (("p95_low", 0.9), ("p95_high", 1.0)):
            if name in values:
                labels = {"kpi": "latency_bucket", "le": str(values[name] / 1000)}
                rows.append({"metric": labels, "value": [0, str(share * messages)]})
        rows.append({"metric": {"kpi": "latency_bucket", "le": "+Inf"}, "value": [0, str(messages)]})
        rows += [{"metric": {"kpi": "journey", "journey": name}, "value": [0, "1"]} for name in self.journeys]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode()


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    prometheus = Prometheus()
    thread = threading.Thread(target=prometheus.server.serve_forever)
    thread.start()
    yield prometheus
    prometheus.server.shutdown()
    thread.join()
    prometheus.server.server_close()


@pytest.fixture
def watched(start: Callable[..., Service], prometheus: Prometheus) -> Service:
    """A service that asks that Prometheus."""
    return start(prometheus_url=prometheus.url)


def ask(service: Service, query: str = "window=1h") -> Any:
    return service.request("GET", f"/v1/ops/monitoring/conversation-kpis?{query}")


def test_the_shape_of_the_answer(watched: Service, prometheus: Prometheus) -> None:
    answer = ask(watched, "window=24h&persona=concierge&journey=chat")
    assert answer.status_code == 200
    assert answer.json()["data"] == {
        "window": "24h",
        "aggregation_scope": "persona",
        "filters": {"journey": "chat", "persona": "concierge"},
        "generated_at": "2026-03-01T12:00:00.000000Z",
        "coverage": 1.0,
        "kpis": {
            "messages_total": {"value": 1000.0, "previous": 500.0, "data_status": "ok"},
            "out_of_scope_rate": {
                "value": 0.05,
                "numerator": 40.0,
                "denominator": 800.0,
                "low": pytest.approx(0.0369, abs=1e-4),
                "high": pytest.approx(0.0674, abs=1e-4),
                "interval": "wilson",
                "previous": 0.02,
                "data_status": "ok",
            },
            "llm_error_rate": {
                "value": 0.01,
                "numerator": 10.0,
                "denominator": 1000.0,
                "low": pytest.approx(0.0054, abs=1e-4),
                "high": pytest.approx(0.0183, abs=1e-4),
                "interval": "wilson",
                "previous": 0.002,
                "data_status": "ok",
            },
            "p95_latency_ms": {
                "value": 1234.5,
                "denominator": 1000.0,
                "low": 1100.0,
                "high": 1400.0,
                "interval": "order_statistic",
                "previous": 1000.0,
                "data_status": "ok",
            },
        },
    }
    assert len(prometheus.queries) == 1


@pytest.mark.parametrize(
    ("query", "scope"),
    [
        ("window=1h", "total"),
        ("window=6h&journey=chat", "journey"),
        ("window=24h&persona=concierge", "persona"),
        ("window=7d&persona=concierge&config_version=3", "version"),
        ("window=7d&journey=chat&persona=concierge&config_version=3", "version"),
    ],
)
def test_the_finest_scope_that_is_asked_for(
    watched: Service, prometheus: Prometheus, query: str, scope: str
) -> None:
    data = ask(watched, query).json()["data"]
    assert data["aggregation_scope"] == scope
    assert f'kpi:messages_total{{scope="{scope}",window="{data["window"]}"' in prometheus.queries[0]


@pytest.mark.parametrize(
    "query",
    ["", "window=2h", "window=1h&config_version=3", "window=1h&x=1", "window=1h&window=6h"],
)
def test_a_wrong_question_is_refused(watched: Service, prometheus: Prometheus, query: str) -> None:
    assert error(ask(watched, query)) == (422, "invalid_request")
    assert prometheus.queries == []


def test_a_journey_that_nobody_counts_is_refused_with_those_that_are(
    watched: Service, prometheus: Prometheus
) -> None:
    prometheus.journeys = ["support", "chat"]
    answer = ask(watched, "window=1h&journey=suport")
    assert error(answer) == (422, "invalid_request")
    assert answer.json()["error"]["message"] == "no messages of that journey: there are chat, support"
    assert answer.json()["error"]["details"] == {"known": ["chat", "support"]}
    assert ask(watched, "window=1h&journey=support").status_code == 200


def test_before_any_message_no_journey_is_refused(watched: Service, prometheus: Prometheus) -> None:
    prometheus.values = {}
    kpis = ask(watched, "window=1h&journey=chat").json()["data"]["kpis"]
    assert kpis["messages_total"] == {"value": 0, "previous": None, "data_status": "no_data"}


@pytest.mark.parametrize(
    "raw",
    [
        (500, b"{}"),
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"status": "error", "data": {"result": []}}'),
        (200, b'{"status": "success", "data": {"result": [{"metric": {}, "value": [0, "1"]}]}}'),
        (422, b'{"status": "error", "error": "parse error"}'),
    ],
)
def test_a_prometheus_that_fails_is_unavailable(
    watched: Service, prometheus: Prometheus, raw: tuple[int, bytes]
) -> None:
    prometheus.raw = raw
    assert error(ask(watched)) == (503, "monitoring_unavailable")


@pytest.fixture
def kpis(clock: Clock) -> Kpis:
    """Asks a Prometheus that only `requests_mock` plays."""
    return Kpis("http://prometheus:9090", clock)


QUERY_URL = "http://prometheus:9090/api/v1/query"


def test_all_values_come_from_one_bounded_request(kpis: Kpis, requests_mock: Mocker) -> None:
    rows = [{"metric": {"kpi": name}, "value": [0, str(value)]} for name, value in HEALTHY.items()]
    requests_mock.post(QUERY_URL, json={"status": "success", "data": {"result": rows}})
    data = anyio.run(kpis.read, Selection("7d", "chat", "concierge", "3"))
    assert (data["aggregation_scope"], data["coverage"]) == ("version", 1.0)
    assert data["kpis"]["out_of_scope_rate"]["numerator"] == 40.0
    (request,) = requests_mock.request_history
    assert request.timeout == TOTAL_SECONDS
    assert parse_qs(request.text) == {
        "query": [expression(Selection("7d", "chat", "concierge", "3"))],
        "timeout": [f"{TOTAL_SECONDS:g}s"],
    }


@pytest.mark.parametrize("failure", [requests.ConnectTimeout, requests.ReadTimeout, requests.ConnectionError])
def test_a_prometheus_that_cannot_be_reached_is_unavailable(
    kpis: Kpis, requests_mock: Mocker, failure: type[Exception]
) -> None:
    requests_mock.post(QUERY_URL, exc=failure)
    with pytest.raises(MonitoringUnavailableError):
        anyio.run(kpis.read, Selection("1h"))


def test_a_prometheus_that_trickles_its_answer_is_not_waited_for(
    kpis: Kpis, requests_mock: Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeouts of requests are per read: an answer that comes byte by byte would pass them for ever."""
    monkeypatch.setattr(config_rollback.evidence.kpis, "TOTAL_SECONDS", 0.2)
    given_up = threading.Event()

    def trickle(*_: Any) -> str:
        assert given_up.wait(60), "it was waited for"
        return "{}"

    requests_mock.post(QUERY_URL, text=trickle)

    async def read() -> None:
        try:
            with pytest.raises(MonitoringUnavailableError, match="in time"):
                await kpis.read(Selection("1h"))
        finally:
            given_up.set()

    anyio.run(read)


def test_without_a_prometheus_monitoring_is_unavailable(service: Service) -> None:
    assert error(ask(service)) == (503, "monitoring_unavailable")


def statuses(**changes: float | None) -> list[str]:
    values = {name: value for name, value in (HEALTHY | changes).items() if value is not None}
    return [kpi["data_status"] for kpi in summarise(Answer(values, {}, [])).values()]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["ok", "ok", "ok", "ok"]),
        ({"messages": 29.0, "scoped_messages": 29.0}, ["ok", "low_sample", "low_sample", "ok"]),
        ({"messages": 19.0, "scoped_messages": 5.0}, ["ok", "low_sample", "low_sample", "low_sample"]),
        (
            {"messages": 0.0, "scoped_messages": 0.0, "out_of_scope": 0.0, "p95_latency_ms": None},
            ["ok", "no_data", "no_data", "no_data"],
        ),
        (dict.fromkeys(HEALTHY), ["no_data"] * 4),
        ({"scoped_messages": None, "out_of_scope": None}, ["ok", "no_data", "ok", "ok"]),
        ({"age_seconds": 181.0}, ["stale"] * 4),
        ({"exporter_up": 0.0}, ["stale"] * 4),
        ({"exporter_up": None}, ["stale"] * 4),
    ],
    ids=str,
)
def test_what_the_numbers_are_worth(changes: dict[str, float | None], expected: list[str]) -> None:
    assert statuses(**changes) == expected


def test_what_prometheus_does_not_know_is_null(watched: Service, prometheus: Prometheus) -> None:
    prometheus.values = {"messages": 0.0}
    kpis = ask(watched).json()["data"]["kpis"]
    assert kpis["messages_total"]["value"] == 0
    assert kpis["out_of_scope_rate"]["value"] is None
    assert kpis["p95_latency_ms"]["value"] is None


@pytest.mark.parametrize("name", ["messages", "out_of_scope", "previous_messages", "p95_high"])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "1e300"])
def test_a_number_that_no_count_or_time_can_be_is_refused(
    watched: Service, prometheus: Prometheus, name: str, number: str
) -> None:
    prometheus.values |= {"p95_low": 1.0, "p95_high": 2.0, name: float(number)}
    assert error(ask(watched)) == (503, "monitoring_unavailable")


def test_the_smallest_number_is_a_count_too(watched: Service, prometheus: Prometheus) -> None:
    prometheus.values = dict.fromkeys(HEALTHY, 5e-324)
    assert ask(watched).status_code == 200


@pytest.mark.parametrize("persona", ["concierge", 'a"b', "a\\", "a\nb", "名前", '"} or vector(1) #'])
def test_the_expression_parses_whatever_the_persona_is_called(persona: str) -> None:
    promql_parser.parse(expression_since(persona, "3", Clock()()))
    for selection in (
        Selection("1h"),
        Selection("7d", "chat"),
        Selection("7d", None, persona),
        Selection("7d", "chat", persona, "3"),
    ):
        text = expression(selection)
        promql_parser.parse(text)
        assert text.count("label_replace(") == 14 + (selection.journey is not None)


@pytest.mark.parametrize("journey", [None, "chat"])
def test_p95_and_its_interval_come_from_the_same_buckets(journey: str | None) -> None:
    text = expression(Selection("1h", journey, "concierge"))
    chosen = f'journey="{journey}",' if journey else ""
    buckets = f'sum by (le) (kpi:latency_bucket:sum{{window="1h",{chosen}persona="concierge"}})'
    assert f'label_replace({buckets}, "kpi", "latency_bucket", "", "")' in text
    assert f"histogram_quantile(0.95, {buckets})" in text


def test_versions_of_all_personas_at_once_make_no_sense() -> None:
    with pytest.raises(InvalidRequestError):
        Selection("1h", config_version="3")


@pytest.mark.parametrize(
    ("events", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals(events: float, total: float, low: float, high: float) -> None:
    """Against the worked examples of Newcombe (1998), Statistics in Medicine 17:857, method 3."""
    assert wilson_interval(events, total) == pytest.approx((low, high), abs=1e-4)


def test_more_events_than_messages_stay_within_the_unit_interval() -> None:
    low, high = wilson_interval(12, 10)
    assert 0 <= low < high <= 1


def test_without_an_earlier_window_there_is_no_comparison() -> None:
    values = {name: value for name, value in HEALTHY.items() if not name.startswith("previous_")}
    assert [kpi["previous"] for kpi in summarise(Answer(values, {}, [])).values()] == [None] * 4


def cumulative(latencies: Iterable[float]) -> dict[float, float]:
    """What the exporter makes of latencies in seconds."""
    known = list(latencies)
    return {bound: sum(one <= bound for one in known) for bound in (*LATENCY_BOUNDS, math.inf)}


def test_the_interval_of_p95_holds_the_bucket_that_p95_lies_in() -> None:
    """The buckets do not say where in (86.4 ms, 104 ms] 300 messages of exactly 100 ms lie."""
    assert p95_interval(cumulative([0.1] * 300)) == (86.4, 104.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=400), st.integers(1, 50))
def test_the_interval_holds_the_p95_of_the_messages_themselves(latencies: list[float], times: int) -> None:
    ordered = sorted(latencies * times)
    p95_ms = 1000 * ordered[math.ceil(0.95 * len(ordered)) - 1]
    low, high = p95_interval(cumulative(ordered))
    assert low is not None
    assert low <= p95_ms
    assert high is None or p95_ms <= high


def test_the_interval_of_p95_misses_the_true_one_in_at_most_one_of_twenty_samples() -> None:
    """Where every message has a bucket of its own, the ends tell the ranks, and chance is a binomial sum."""
    for total in (1, 2, 20, 59, 72, 73, 230, 500, 2509, 2879):
        low, high = p95_interval({float(n): float(n) for n in range(1, total + 1)} | {math.inf: float(total)})
        assert low is not None
        first, last = round(low / 1000) + 1, total + 1 if high is None else round(high / 1000)
        likely = sum(math.comb(total, k) * 95**k * 5 ** (total - k) for k in range(first, last))
        assert likely / 100**total >= 0.95, total


def test_few_messages_leave_the_interval_of_p95_open() -> None:
    assert p95_interval(cumulative([0.1])) == (86.4, None)
    assert p95_interval(cumulative([0.1] * 72)) == (86.4, None)
    assert p95_interval(cumulative([0.1] * 73)) == (86.4, 104.0)


def test_the_interval_of_p95_past_the_last_bucket_is_open() -> None:
    assert p95_interval(cumulative([0.1] * 50 + [500.0] * 50)) == (120_000.0, None)


def test_without_messages_p95_has_no_interval() -> None:
    assert p95_interval({}) == p95_interval(cumulative([])) == (None, None)


@settings(deadline=None)
@given(st.integers(1, 10**9), st.data())
def test_the_interval_of_a_rate_holds_the_rate_itself(total: int, data: st.DataObject) -> None:
    """Rounding must not leave out no event, or every message."""
    events = data.draw(st.sampled_from((0, total)) | st.integers(0, total))
    low, high = wilson_interval(events, total)
    assert 0 <= low <= events / total <= high <= 1
