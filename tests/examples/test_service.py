"""The example service counts each message under the version that answered it, and logs its request id."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from driftback.testing import FakeConfigClient, FakeRecorder
from examples.service import create_app

CONFIG = {"allowed_topics": ["orders"], "model": "swift-1", "max_output_tokens": 3, "timeout_ms": 60_000}
MESSAGE = {"topic": "orders", "input_tokens": 7, "natural_tokens": 9}


def post(app: Starlette, message: dict[str, Any]) -> httpx.Response:
    """What the service answers."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat") as client:
            return await client.post("/messages", json=message)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("change", "topic", "status", "counted"),
    [
        ({}, "orders", 200, {"outcome": "ok", "input_tokens": 7, "output_tokens": 3}),
        ({}, "politics", 200, {"outcome": "out_of_scope", "input_tokens": 7, "output_tokens": 3}),
        ({"timeout_ms": 1}, "orders", 502, {"outcome": "llm_error", "reason": "timeout"}),
        ({"model": "old-1"}, "orders", 502, {"outcome": "llm_error", "reason": "provider_error"}),
    ],
    ids=["answered", "refused", "too slow", "no such model"],
)
def test_a_message_is_counted_and_logged(
    change: dict[str, Any], topic: str, status: int, counted: dict[str, Any]
) -> None:
    recorder, configs = FakeRecorder(), FakeConfigClient(CONFIG, persona="concierge")
    configs.start()
    configs.publish(CONFIG | change)
    app = create_app(recorder, configs, "chat", refuses_topics=True)
    with capture_logs() as lines:
        answer = post(app, MESSAGE | {"topic": topic})
    assert answer.status_code == status
    (message,) = recorder.messages
    assert (message.journey, message.persona, message.config_version) == ("chat", "concierge", "2")
    assert message._asdict().items() >= counted.items()
    (line,) = lines
    assert (line["request_id"], line["config_version"]) == (answer.json()["request_id"], 2)
