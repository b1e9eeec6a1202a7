"""`POST /v1/push`: what it adds to the scrape, once, and under which labels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.ingest import Ingest
from exporter.storage.clock import Moment
from tests.exporter.running import Clock, Running, sample, series, wait_for

SCRAPE = Path(__file__).parent / "golden" / "scrape.txt"


def test_the_whole_scrape_after_two_pushes(exporter: Running, clock: Clock, update_golden: bool) -> None:
    exporter.push(series("guidance", config_version="7"), seq=1)
    clock.wait(60.5)
    exporter.push(
        {
            "journey": "chat",
            "persona": 'con"cierge\\\n',
            "config_version": "3",
            "messages": 5,
            "out_of_scope": 1,
            "llm_errors": {"timeout": 2},
            "latency": {"sum": 61.25, "buckets": {"0": 1, "10": 3, "44": 1}},
            "ttft": {"sum": 0.5, "buckets": {"11": 1}},
            "tokens": {"input": 1_500_000, "output": 20},
        },
        seq=2,
        dropped=4,
    )
    scrape = exporter.scrape().replace(exporter.journal(), "JOURNAL")
    conversation, _, own = scrape.partition("# HELP exporter_pushes_total")
    if update_golden:
        SCRAPE.write_text(conversation)
    assert conversation == SCRAPE.read_text()
    assert sample(own, "exporter_client_dropped_total") == 4
    assert sample(own, "exporter_series") == 2


def test_a_label_set_is_exported_at_zero_as_soon_as_it_is_declared(exporter: Running) -> None:
    exporter.push(series())
    for name, lines in {
        "conversation_messages_total": 1,
        "conversation_out_of_scope_total": 1,
        "conversation_llm_errors_total": 6,
        "conversation_latency_seconds_bucket": 45,
        "conversation_time_to_first_token_seconds_bucket": 0,
        "conversation_tokens_total": 2,
    }.items():
        found = [line for line in exporter.scrape().splitlines() if line.startswith(name + "{")]
        assert len(found) == lines
        assert all(line.endswith(" 0.0") for line in found)


def test_a_journey_without_scope_has_no_out_of_scope_series(exporter: Running) -> None:
    exporter.push(series("guidance", messages=1))
    assert exporter.value("conversation_out_of_scope_total") is None


def test_increments_add_up(exporter: Running) -> None:
    exporter.push(series(messages=2), series(messages=3), seq=1)
    exporter.push(series(messages=4), seq=2)
    assert exporter.value("conversation_messages_total") == 9
    assert exporter.value("conversation_latency_seconds_count") == 9
    assert exporter.value("conversation_latency_seconds_bucket", le="0.05") == 0
    assert exporter.value("conversation_latency_seconds_bucket", le="0.06") == 9
    assert exporter.value("conversation_latency_seconds_sum") == pytest.approx(9 * 0.055)


def test_a_retry_is_counted_once_and_says_so(exporter: Running) -> None:
    answers = [exporter.push(series(messages=5), seq=1, dropped=2)["duplicate"] for _ in range(3)]
    assert answers == [False, True, True]
    assert exporter.value("conversation_messages_total") == 5
    assert exporter.value("exporter_client_dropped_total") == 2
    assert exporter.value("exporter_pushes_total", result="accepted") == 1
    assert exporter.value("exporter_pushes_total", result="duplicate") == 2


def test_streams_are_told_apart_by_client_and_epoch(exporter: Running) -> None:
    exporter.push(series(messages=1), client="a", epoch=1)
    exporter.push(series(messages=1), client="a", epoch=2)
    exporter.push(series(messages=1), client="b", epoch=1)
    assert exporter.value("conversation_messages_total") == 3


def test_created_is_when_the_label_set_became_known(exporter: Running, clock: Clock) -> None:
    born = clock.now
    exporter.push(series(), seq=1)
    clock.wait(100)
    exporter.push(series(messages=1), series(config_version="2"), seq=2)
    name = "conversation_created_timestamp_seconds"
    assert exporter.value(name, config_version="1") == born
    assert exporter.value(name, config_version="2") == born + 100


def test_every_conversation_series_carries_the_journal(exporter: Running) -> None:
    exporter.push(series(messages=1))
    lines = [line for line in exporter.scrape().splitlines() if line.startswith("conversation_")]
    assert lines
    assert all(f'journal="{exporter.journal()}"' in line for line in lines)


POLICY = """
journeys: {chat: {out_of_scope: true}, guidance: {}}
max_personas: 2
max_series: 5
"""


@pytest.fixture
def bounded(start: Callable[..., Running], tmp_path: Path) -> Running:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return start(policy_file=tmp_path / "policy.yaml")


def test_what_was_counted_under_other_stays_there_after_a_restart(
    bounded: Running, start: Callable[..., Running]
) -> None:
    bounded.push(*(series(persona=name, messages=1) for name in "abc"))
    assert bounded.value("exporter_rejected_total", reason="persona_overflow") == 1
    assert bounded.value("exporter_series_limit") == 5
    bounded.stop()
    exporter = start()
    assert exporter.value("conversation_messages_total", persona="c") is None
    assert exporter.value("conversation_messages_total", persona="other") == 1


def test_a_refused_batch_takes_no_place_of_the_bound(bounded: Running) -> None:
    bad = series("nonsense", messages=1)
    for number in range(4):
        push = {
            "client": "c",
            "epoch": 1,
            "seq": 1,
            "series": [series(persona=f"p{number}", messages=1), bad],
        }
        assert bounded.post("/v1/push", push).status_code == 422
    bounded.push(series(persona="a", messages=1), series(persona="b", messages=1))
    assert bounded.value("conversation_messages_total", persona="other") is None
    assert bounded.value("exporter_rejected_total", reason="persona_overflow") == 0


def test_an_expiry_that_failed_anyhow_is_tried_again(
    start: Callable[..., Running], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire, failures = Ingest.expire, [ZeroDivisionError(), KeyError("x")]

    async def failing(self: Ingest, now: Moment) -> None:
        if failures:
            raise failures.pop()
        await expire(self, now)

    monkeypatch.setattr("exporter.service.EXPIRY_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(Ingest, "expire", failing)
    exporter = start()
    exporter.push(series(messages=1))
    clock.wait(9 * 86_400)
    wait_for(lambda: exporter.value("conversation_messages_total") is None)


def test_an_exporter_that_never_lives_for_an_hour_drops_untouched_label_sets_too(
    start: Callable[..., Running], clock: Clock
) -> None:
    exporter = start()
    exporter.push(series(messages=1), seq=1)
    clock.wait(9 * 86_400)
    exporter.push(series(config_version="2", messages=1), seq=2)
    exporter.stop()
    exporter = start()
    wait_for(lambda: exporter.value("conversation_messages_total", config_version="1") is None)
    assert exporter.value("conversation_messages_total", config_version="2") == 1


def test_untouched_label_sets_are_dropped_after_eight_days(
    start: Callable[..., Running], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.service.EXPIRY_INTERVAL_SECONDS", 0.05)
    exporter = start()
    exporter.push(series(messages=1), series(config_version="2", messages=1), seq=1)
    clock.wait(5 * 86_400)
    exporter.push(series(config_version="2", messages=1), seq=2)
    clock.wait(4 * 86_400)
    wait_for(lambda: exporter.value("conversation_messages_total", config_version="1") is None)
    exporter.stop()
    exporter = start()
    assert exporter.value("conversation_messages_total", config_version="2") == 2
    exporter.push(series(messages=1), seq=4)
    assert exporter.value("conversation_messages_total", config_version="1") == 1
    assert exporter.value("conversation_created_timestamp_seconds", config_version="1") == clock.now
    exporter.stop()
    assert start().value("conversation_messages_total", config_version="1") == 1
