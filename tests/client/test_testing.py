"""The fakes behave as what they stand for, as far as a service sees it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from driftback import Active, AsyncConfigClient, ConfigClient, NotReadyError
from driftback.testing import FakeAsyncConfigClient, FakeConfigClient, FakeMessage, FakeRecorder
from tests.support.stacks import ROOT

LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": 1}
CONFIG = {"allowed_topics": ["orders"]}


def test_the_recorder_keeps_what_it_was_told() -> None:
    with FakeRecorder() as recorder:
        recorder.declare(**LABELS)
        recorder.record(**LABELS, latency_ms=5)
        message = recorder.message(**LABELS)
        message.tokens(input=7)
        with pytest.raises(TimeoutError), message:
            raise TimeoutError
        assert recorder.flush()
        assert recorder.counts().acknowledged == 2
    assert recorder.declared == {("chat", "concierge", "1")}
    first, second = recorder.messages
    assert first == FakeMessage("chat", "concierge", "1", latency_ms=5)
    assert (second.outcome, second.reason, second.input_tokens) == ("llm_error", "timeout", 7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latency_ms": -1}, "latency_ms must be"),
        ({"latency_ms": "fast"}, "times and tokens numbers"),
        ({"ttft_ms": -1}, "ttft_ms must be"),
        ({"input_tokens": -1}, "input_tokens and output_tokens"),
        ({"outcome": "fine"}, "outcome must be"),
        ({"outcome": "llm_error", "reason": "moon"}, "reason must be"),
        ({"persona": None}, "persona must be"),
        ({"config_version": None}, "config_version must be"),
        ({"journey": "c" * 129}, "journey must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_real_recorder_would_drop_raises(change: dict[str, Any], named: str) -> None:
    recorder = FakeRecorder()
    with pytest.raises(ValueError, match=named):
        recorder.record(**{**LABELS, "latency_ms": 5, **change})
    assert recorder.messages == []


def test_a_message_after_the_end_raises() -> None:
    recorder = FakeRecorder()
    recorder.record(**LABELS, latency_ms=5)
    recorder.close()
    with pytest.raises(ValueError, match="after close"):
        recorder.record(**LABELS, latency_ms=5)


def test_the_configuration_client_serves_what_the_test_publishes() -> None:
    seen: list[tuple[int, int | None]] = []

    def on_change(active: Active) -> None:
        seen.append((active.version, configs.current.version if configs.current else None))

    configs: ConfigClient = FakeConfigClient(CONFIG, persona="concierge", on_change=on_change)
    assert isinstance(configs, FakeConfigClient)
    configs.start()
    assert configs.wait_ready(0) == Active("concierge", 1, CONFIG)
    assert configs.publish({}) == configs.current == Active("concierge", 2, {})
    configs.close()
    assert seen == [(1, None), (2, 1)]


def test_without_a_configuration_it_is_not_ready() -> None:
    configs = FakeConfigClient(persona="concierge")
    configs.start()
    with pytest.raises(NotReadyError):
        configs.wait_ready(0)


def test_the_asynchronous_one_serves_what_the_test_publishes() -> None:
    seen: list[tuple[int, int | None]] = []

    async def serve() -> None:
        async def on_change(active: Active) -> None:
            seen.append((active.version, configs.current.version if configs.current else None))

        configs: AsyncConfigClient = FakeAsyncConfigClient(CONFIG, persona="concierge", on_change=on_change)
        assert isinstance(configs, FakeAsyncConfigClient)
        async with configs:
            assert await configs.wait_ready(0) == Active("concierge", 1, CONFIG)
            await configs.publish({})
            assert configs.current == Active("concierge", 2, {})

    asyncio.run(serve())
    assert seen == [(1, None), (2, 1)]


def test_an_on_change_that_raises_is_logged_and_the_version_served(caplog: pytest.LogCaptureFixture) -> None:
    def on_change(_: Active) -> None:
        raise ZeroDivisionError

    async def serve() -> None:
        configs = FakeAsyncConfigClient(persona="concierge", on_change=on_change)
        assert await configs.publish(CONFIG) == configs.current

    fake = FakeConfigClient(persona="concierge", on_change=on_change)
    assert fake.publish(CONFIG) == fake.current
    asyncio.run(serve())
    assert caplog.text.count("on_change failed") == 2


def test_the_documented_example_runs() -> None:
    page = (ROOT / "docs" / "instrumenting.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(from driftback.testing.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    names["test_a_refused_topic_is_out_of_scope"]()
