"""Work that runs once for all who wait."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from config_rollback.web.single_flight import SingleFlight


def test_work_that_fails_when_nobody_waits_any_more_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)
        raise ZeroDivisionError

    async def receive() -> Message:
        await asyncio.to_thread(begun.wait, 30)
        return {"type": "http.disconnect"}

    async def run() -> None:
        flight = SingleFlight(work)
        with pytest.raises(ClientDisconnect):
            await flight.result(Request({"type": "http"}, receive))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        go_on.set()
        await asyncio.wait(others)

    asyncio.run(run())
    gc.collect()
    assert "never retrieved" not in caplog.text
