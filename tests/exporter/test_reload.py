"""SIGHUP reloads the label policy and the tokens; an invalid file only changes a metric and the log."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.exporter.running import TOKEN, Process, series, wait_for

BEFORE = "{journeys: {chat: {out_of_scope: true}}, max_personas: 1}"
AFTER = "{journeys: {chat: {out_of_scope: true}, support: {}}, reasons: [other, lost], max_series: 7}"
RELOADED = "exporter_policy_last_reload_successful"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(BEFORE)
    return path


@pytest.fixture
def exporter(launch: Callable[..., Process], policy: Path) -> Process:
    return launch(EXPORTER_POLICY_FILE=str(policy))


def reload(exporter: Process, policy: Path, text: str) -> str:
    """Replace the policy, send SIGHUP, and give the event that answers it."""
    seen = len(exporter.log)
    policy.write_text(text)
    exporter.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(exporter.log) > seen)
    return str(exporter.log[seen]["event"])


def test_a_new_policy_holds_without_a_restart(exporter: Process, policy: Path) -> None:
    exporter.push(series(messages=1), seq=1)
    assert exporter.value(RELOADED) == 1
    support = {"client": "c", "epoch": 1, "seq": 2, "series": [series("support", "a", messages=1)]}
    assert exporter.post("/v1/push", support).status_code == 422

    assert reload(exporter, policy, AFTER) == "policy_reloaded"
    assert exporter.post("/v1/push", support).status_code == 200
    assert exporter.value("exporter_series_limit") == 7
    assert exporter.value("conversation_llm_errors_total", persona="concierge", reason="lost") == 0
    exporter.push(series(messages=2, llm_errors={"lost": 2}), seq=3)
    assert exporter.value("conversation_llm_errors_total", reason="lost") == 2
    assert exporter.value("conversation_messages_total", persona="a", journey="support") == 1


@pytest.mark.parametrize(
    "text",
    ["{", "max_series: 0", "reasons: [lost]", "\0", "max_series: 1\nmax_series: 2"],
    ids=["no YAML", "a bad bound", "no other", "NUL", "a key twice"],
)
def test_an_invalid_policy_leaves_the_old_one_in_force(exporter: Process, policy: Path, text: str) -> None:
    exporter.push(series(messages=1), seq=1)
    assert reload(exporter, policy, text) == "policy_kept"
    assert str(policy) in exporter.log[-1]["reason"]
    assert exporter.value(RELOADED) == 0
    exporter.push(series(messages=1), series(persona="second", messages=1), seq=2)
    assert exporter.value("conversation_messages_total", persona="concierge") == 2
    assert exporter.value("conversation_messages_total", persona="other") == 1

    assert reload(exporter, policy, BEFORE) == "policy_reloaded"
    assert exporter.value(RELOADED) == 1


def test_a_policy_that_went_away_is_an_invalid_one(exporter: Process, policy: Path) -> None:
    policy.unlink()
    exporter.process.send_signal(signal.SIGHUP)
    wait_for(lambda: exporter.event("policy_kept"))
    exporter.push(series(messages=1))


def test_what_the_new_policy_would_not_take_stays_and_survives_a_kill(
    launch: Callable[..., Process], policy: Path
) -> None:
    policy.write_text(AFTER)
    exporter = launch(EXPORTER_POLICY_FILE=str(policy))
    lost = series("support", messages=3, llm_errors={"lost": 1})
    exporter.push(lost, series(persona="a", messages=1), series(persona="b", messages=1), seq=1)
    assert reload(exporter, policy, BEFORE) == "policy_reloaded"
    before = [line for line in exporter.scrape().splitlines() if line.startswith("conversation_")]
    refused = {"client": "c", "epoch": 1, "seq": 2, "series": [lost]}
    assert exporter.post("/v1/push", refused).json()["error"]["code"] == "label_not_allowed"
    exporter.push(series(persona="b", messages=1), series(persona="d", messages=1), seq=2)
    assert exporter.value("conversation_messages_total", persona="b") == 2
    assert exporter.value("conversation_messages_total", persona="other") == 1

    exporter.end(signal.SIGKILL)
    exporter = launch(EXPORTER_POLICY_FILE=str(policy))
    again = exporter.scrape()
    assert {line.rpartition(" ")[0] for line in before} <= {
        line.rpartition(" ")[0] for line in again.splitlines()
    }
    assert exporter.value("conversation_llm_errors_total", reason="lost", journey="support") == 1


def test_reloads_under_load_lose_nothing(exporter: Process, policy: Path) -> None:
    def pushes(client: str) -> None:
        for seq in range(1, 101):
            exporter.push(series(messages=1), client=client, seq=seq)

    threads = [threading.Thread(target=pushes, args=(f"client {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    texts = [AFTER, "{", BEFORE]
    while any(thread.is_alive() for thread in threads):
        texts.append(texts.pop(0))
        reload(exporter, policy, texts[0])
    for thread in threads:
        thread.join()
    assert exporter.value("conversation_messages_total") == 300


def test_a_token_is_replaced_without_a_restart(launch: Callable[..., Process], tmp_path: Path) -> None:
    new, file, reloaded = (
        "another-ingest-token",
        tmp_path / "tokens",
        "exporter_tokens_last_reload_successful",
    )
    file.write_text(TOKEN)
    exporter = launch(EXPORTER_INGEST_TOKENS="", EXPORTER_INGEST_TOKENS_FILE=str(file))

    def hup(text: str) -> dict[str, Any]:
        """The last line of the log after the file holds this."""
        file.write_text(text)
        seen = len(exporter.log)
        exporter.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(exporter.log) == seen + 2)  # of the policy, and of the tokens
        return exporter.log[-1]

    def accepted() -> list[bool]:
        """Whether the old and the new token may push."""
        body = {"client": "c", "epoch": 1, "seq": 1, "series": [series(messages=1)]}
        return [exporter.post("/v1/push", body, token=token).status_code == 200 for token in (TOKEN, new)]

    assert accepted() == [True, False]
    assert hup(f"{TOKEN}\n{new}")["event"] == "tokens_reloaded"
    assert accepted() == [True, True]
    kept = hup("short")
    assert (kept["event"], str(file) in kept["reason"]) == ("tokens_kept", True)
    assert accepted() == [True, True]
    assert exporter.value(reloaded) == 0
    assert hup(new)["event"] == "tokens_reloaded"
    assert accepted() == [False, True]
    assert exporter.value(reloaded) == 1
