"""`POST /v1/observations`: finished messages from any language, summed up by the exporter."""

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.exporter.running import Running


def observation(**changes: Any) -> dict[str, Any]:
    message = {
        "journey": "chat",
        "persona": "concierge",
        "config_version": "1",
        "outcome": "ok",
        "latency_ms": 55.0,
    }
    return message | changes


def send(exporter: Running, *observations: dict[str, Any], key: str = "k1") -> requests.Response:
    return exporter.post("/v1/observations", observations, headers={"Idempotency-Key": key})


def test_each_message_is_counted_with_its_outcome(exporter: Running) -> None:
    response = send(
        exporter,
        observation(ttft_ms=49.0, input_tokens=100, output_tokens=7),
        observation(outcome="out_of_scope", latency_ms=60.0),
        observation(outcome="llm_error", reason="timeout", latency_ms=120_001.0, input_tokens=1),
        observation(outcome="llm_error"),
        observation(journey="guidance", latency_ms=0),
    )
    assert response.status_code == 200, response.text
    chat = {"journey": "chat", "persona": "concierge", "config_version": "1"}
    assert exporter.value("conversation_messages_total", **chat) == 4
    assert exporter.value("conversation_messages_total", journey="guidance") == 1
    assert exporter.value("conversation_out_of_scope_total", **chat) == 1
    assert exporter.value("conversation_llm_errors_total", reason="timeout", **chat) == 1
    assert exporter.value("conversation_llm_errors_total", reason="other", **chat) == 1
    assert exporter.value("conversation_latency_seconds_bucket", le="0.06", **chat) == 3
    assert exporter.value("conversation_latency_seconds_bucket", le="120.0", **chat) == 3
    assert exporter.value("conversation_latency_seconds_count", **chat) == 4
    assert exporter.value("conversation_latency_seconds_sum", **chat) == pytest.approx(120.171)
    assert exporter.value("conversation_time_to_first_token_seconds_count", **chat) == 1
    assert exporter.value("conversation_tokens_total", direction="input", **chat) == 101
    assert exporter.value("conversation_tokens_total", direction="output", **chat) == 7


def test_messages_at_the_bounds_are_counted_and_survive_a_restart(start: Callable[..., Running]) -> None:
    exporter = start()
    largest = observation(latency_ms=1e15, ttft_ms=1e15, input_tokens=10**12, output_tokens=10**12)
    assert send(exporter, largest, largest, observation(input_tokens=1)).status_code == 200
    before = exporter.scrape()
    exporter.stop()
    exporter = start()
    assert exporter.value("conversation_messages_total") == 3
    assert exporter.value("conversation_tokens_total", direction="input") == 2 * 10**12 + 1
    assert exporter.value("conversation_latency_seconds_sum") == pytest.approx(2e12)
    conversation, _, _ = before.partition("# HELP exporter_pushes_total")
    assert exporter.scrape().startswith(conversation)


def test_the_same_key_and_body_count_once(exporter: Running) -> None:
    answers = [send(exporter, observation()).json()["data"]["duplicate"] for _ in range(3)]
    assert answers == [False, True, True]
    assert exporter.value("conversation_messages_total") == 1


def test_the_same_key_with_another_body_is_refused(exporter: Running) -> None:
    send(exporter, observation())
    response = send(exporter, observation(latency_ms=1.0))
    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert exporter.value("conversation_messages_total") == 1


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}, {"Idempotency-Key": "k" * 129}])
def test_a_key_is_required(exporter: Running, headers: dict[str, str]) -> None:
    response = exporter.post("/v1/observations", [observation()], headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"latency_ms": -1}, "invalid_request"),
        ({"latency_ms": True}, "invalid_request"),
        ({"latency_ms": "1"}, "invalid_request"),
        ({"outcome": "fine"}, "invalid_request"),
        ({"reason": "timeout"}, "invalid_request"),
        ({"outcome": "llm_error", "reason": "moon"}, "label_not_allowed"),
        ({"journey": "moon"}, "label_not_allowed"),
        ({"journey": "guidance", "outcome": "out_of_scope"}, "invalid_request"),
        ({"input_tokens": 1.5}, "invalid_request"),
        ({"persona": ""}, "invalid_request"),
        ({"persona": "a\0b"}, "invalid_request"),
        ({"mood": "good"}, "invalid_request"),
    ],
    ids=lambda value: str(value),
)
def test_one_bad_message_refuses_the_batch(exporter: Running, change: dict[str, Any], code: str) -> None:
    response = send(exporter, *3 * [observation()], observation(**change))
    assert (response.status_code, response.json()["error"]["code"]) == (422, code)
    assert response.json()["error"]["details"]["items"] == [3]
    assert exporter.value("conversation_messages_total") is None
    assert exporter.value("exporter_rejected_total", reason=code) == 1
    assert send(exporter, observation()).json()["data"]["duplicate"] is False


def test_an_unknown_outcome_is_told_with_those_there_are(exporter: Running) -> None:
    error = send(exporter, observation(), observation(outcome="moon")).json()["error"]
    assert (error["code"], error["message"]) == ("invalid_request", "Unknown outcome 'moon'")
    assert error["details"] == {"allowed": ["ok", "out_of_scope", "llm_error"], "items": [1]}


def test_every_refused_message_is_named_and_the_others_can_be_sent(exporter: Running) -> None:
    messages = [
        observation(),
        observation(journey="moon"),
        observation(config_version="2"),
        observation(),
        observation(journey="guidance", outcome="out_of_scope"),
        observation(outcome="llm_error", reason="moon"),
        observation(journey="moon", latency_ms=1.0),
        observation(reason="timeout"),
    ]
    error = send(exporter, *messages).json()["error"]
    assert (error["code"], error["details"]["items"]) == ("label_not_allowed", [1, 4, 5, 6, 7])
    sound = [
        message for position, message in enumerate(messages) if position not in error["details"]["items"]
    ]
    assert send(exporter, *sound, key="k2").status_code == 200
    assert exporter.value("conversation_messages_total") == 3
