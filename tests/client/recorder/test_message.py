"""The context manager that times a message: what it counts, and what it leaves alone."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from botocore.config import Config
from botocore.session import get_session

from driftback import Recorder, classify
from tests.exporter.running import TOKEN, Running

LABELS: dict[str, Any] = {"journey": "chat", "persona": "p", "config_version": "1"}


class _Error(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("secret prompt")
        self.__dict__.update(attributes)


class APITimeoutError(Exception):
    """Named as openai's."""


class RateLimitError(Exception):
    """Named as openai's and anthropic's."""


class ContentFilterFinishReasonError(Exception):
    """Named as openai's."""


class ValidationError(ValueError):
    """Named as pydantic's."""


class ConnectError(Exception):
    """Named as httpx's."""


class UnreadableError(Exception):
    """An exception whose attributes raise."""

    @property
    def status_code(self) -> int:
        raise RuntimeError("no status")


@pytest.fixture
def recorder(exporter: Running) -> Iterator[Recorder]:
    """A recorder that sends to the exporter."""
    with Recorder(exporter.url, TOKEN, flush_interval=0.05) as recorder:
        yield recorder


def raised(call: Callable[[], object]) -> Exception:
    """What a real library raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each is another)
        call()
    return caught.value


class Answering(BaseHTTPRequestHandler):
    """Answers with the status that the path names; `slow` never, `cut` with half a body."""

    def do_GET(self) -> None:
        """Answer."""
        what = self.path.strip("/")
        if what == "slow":
            self.rfile.read(1)  # until the other side gives up
            self.close_connection = True
            return
        self.send_response(int(what) if what.isdecimal() else 200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"12345" if what == "cut" else b"1234567890")

    def do_POST(self) -> None:
        """Refuse as AWS does when there is too much to do."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"__type": "ThrottlingException", "message": "Too many requests"}'
        self.send_response(400)
        self.send_header("x-amzn-ErrorType", "ThrottlingException")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """A server that fails in many ways; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def seconds(url: str) -> float:
    """How long to wait for an answer: not shorter than a busy machine needs, where one comes."""
    return 0.2 if url.endswith("slow") else 60


def by_urllib(url: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=seconds(url)) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise


def by_httpx(url: str) -> None:
    httpx.get(url, timeout=seconds(url)).raise_for_status()


def by_requests(url: str) -> None:
    requests.get(url, timeout=seconds(url)).raise_for_status()


def by_aiohttp(url: str) -> None:
    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=seconds(url))
        session = aiohttp.ClientSession(timeout=timeout, raise_for_status=True)
        async with session, session.get(url) as answer:
            await answer.read()

    asyncio.run(get())


@pytest.mark.parametrize("ask", [by_urllib, by_httpx, by_requests, by_aiohttp])
def test_the_reason_of_what_a_library_raises(provider: str, ask: Callable[[str], None]) -> None:
    expected = {"429": "rate_limited", "504": "timeout", "408": "timeout", "500": "provider_error"}
    expected |= {"slow": "timeout", "cut": "provider_error", "401": "provider_error"}
    found = {path: classify(raised(partial(ask, f"{provider}/{path}"))) for path in expected}
    assert found == expected
    assert classify(raised(partial(ask, "http://127.0.0.1:1"))) == "provider_error"


@pytest.mark.parametrize("url", ["answering", "http://127.0.0.1:1"], ids=["throttled", "away"])
def test_the_reason_of_what_botocore_raises(provider: str, url: str) -> None:
    config = Config(retries={"total_max_attempts": 1})
    client = get_session().create_client(
        "bedrock-runtime",
        region_name="eu-west-1",
        endpoint_url=provider if url == "answering" else url,
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=config,
    )
    error = raised(lambda: client.converse(modelId="m", messages=[]))
    assert classify(error) == ("rate_limited" if url == "answering" else "provider_error")
    client.close()


def azure_by_openai() -> Exception:
    """As openai raises what Azure's filter refuses: the code is of the body's `error`."""
    body = {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}
    return _Error(status_code=400, code="content_filter", body=body)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "timeout"),
        (requests.ReadTimeout(), "timeout"),
        (requests.ConnectTimeout(), "timeout"),
        (APITimeoutError(), "timeout"),
        (_Error(status_code=504), "timeout"),
        (_Error(status_code=408), "timeout"),
        (_Error(status_code=429), "rate_limited"),
        (_Error(response=SimpleNamespace(status_code=429)), "rate_limited"),
        (RateLimitError(), "rate_limited"),
        (ContentFilterFinishReasonError(), "content_filter"),
        (json.JSONDecodeError("no", "", 0), "invalid_output"),
        (ValidationError(), "invalid_output"),
        (_Error(status_code=500), "provider_error"),
        (_Error(status_code=401), "provider_error"),
        (azure_by_openai(), "content_filter"),
        (_Error(status_code=400, error=SimpleNamespace(code="content_filter")), "content_filter"),
        (_Error(status_code=400, body={"error": {"code": "content_filter"}}), "content_filter"),
        (_Error(status_code=400, code="context_length_exceeded"), "provider_error"),
        (ExceptionGroup("", [KeyError("x"), _Error(status_code=429)]), "rate_limited"),
        (ExceptionGroup("", [ExceptionGroup("", [TimeoutError()])]), "timeout"),
        (ExceptionGroup("", [KeyError("x")]), "other"),
        (urllib.error.URLError("no host given"), "other"),
        (_Error(code=7), "other"),
        (ConnectionResetError(), "provider_error"),
        (requests.ConnectionError(), "provider_error"),
        (ConnectError(), "provider_error"),
        (KeyError("x"), "other"),
        (_Error(status_code="429"), "other"),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else value,
)
def test_the_reason_of_an_exception(error: Exception, reason: str) -> None:
    assert classify(error) == reason


def test_a_message_with_everything(exporter: Running, recorder: Recorder) -> None:
    with recorder.message(journey="chat", persona="p", config_version=1) as message:
        message.first_token()
        message.first_token()
        message.tokens(input=7, output=9)
        message.out_of_scope()
    assert recorder.flush()
    assert exporter.value("conversation_messages_total", **LABELS) == 1
    assert exporter.value("conversation_out_of_scope_total", **LABELS) == 1
    assert exporter.value("conversation_time_to_first_token_seconds_count", **LABELS) == 1
    assert exporter.value("conversation_tokens_total", direction="input") == 7
    assert exporter.value("conversation_tokens_total", direction="output") == 9


def test_the_callers_exception_passes_through_unchanged_and_is_counted(
    exporter: Running, recorder: Recorder
) -> None:
    error = TimeoutError("mine")
    with pytest.raises(TimeoutError) as caught, recorder.message(**LABELS):
        raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    with pytest.raises(UnreadableError), recorder.message(**LABELS):
        raise UnreadableError
    with recorder.message(**LABELS) as message:
        message.failed("content_filter")
    assert recorder.flush()
    for reason in ("timeout", "other", "content_filter"):
        assert exporter.value("conversation_llm_errors_total", reason=reason) == 1
    assert exporter.value("conversation_messages_total") == 3


def test_what_is_said_last_decides(exporter: Running, recorder: Recorder) -> None:
    with recorder.message(**LABELS) as message:
        message.failed("timeout")
        message.out_of_scope()
    with recorder.message(**LABELS) as message:
        message.out_of_scope()
        message.failed("content_filter")
    with recorder.message(**LABELS) as message:
        message.failed("content_filter")
        message.failed()
    message = recorder.message(**LABELS)
    message.failed("content_filter")
    message.out_of_scope()
    with pytest.raises(TimeoutError), message:
        raise TimeoutError
    assert recorder.flush()
    assert exporter.value("exporter_client_dropped_total") == 0
    assert exporter.value("conversation_messages_total") == 4
    assert exporter.value("conversation_out_of_scope_total") == 1
    for reason in ("content_filter", "other", "timeout"):
        assert exporter.value("conversation_llm_errors_total", reason=reason) == 1


def test_tokens_may_be_said_as_they_become_known(exporter: Running, recorder: Recorder) -> None:
    with recorder.message(**LABELS) as message:
        message.tokens(input=7)
        message.tokens(output=1)
        message.tokens(output=9)
    assert recorder.flush()
    assert exporter.value("conversation_tokens_total", direction="input") == 7
    assert exporter.value("conversation_tokens_total", direction="output") == 9


def test_tasks_are_timed_each_on_its_own(exporter: Running, recorder: Recorder) -> None:
    async def answer(seconds: float) -> None:
        async with recorder.message(**LABELS):
            await asyncio.sleep(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(answer(0.1), answer(0.2), *(answer(0) for _ in range(50)))

    asyncio.run(all_of_them())
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 52
    total = exporter.value("conversation_latency_seconds_sum")
    assert total is not None
    assert total >= 0.3


def test_a_cancelled_message_did_not_finish(exporter: Running, recorder: Recorder) -> None:
    async def answer() -> None:
        async with recorder.message(**LABELS):
            await asyncio.sleep(60)

    async def cancel() -> None:
        task = asyncio.create_task(answer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    recorder.record(**LABELS, latency_ms=1)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 1


def test_persona_and_version_come_from_the_config(exporter: Running, recorder: Recorder) -> None:
    with recorder.message(journey="guidance", config=SimpleNamespace(persona="coach", version=12)):
        pass
    assert recorder.flush()
    labels: dict[str, str] = {"journey": "guidance", "persona": "coach", "config_version": "12"}
    assert exporter.value("conversation_messages_total", **labels) == 1


def test_a_message_without_labels_is_dropped_and_reported(exporter: Running, recorder: Recorder) -> None:
    with recorder.message(journey="chat"):
        pass
    with recorder.message(journey="chat", config=None):
        pass
    with recorder.message(journey="chat", config=object()):  # type: ignore[arg-type]
        pass
    recorder.record(**LABELS, latency_ms=1)
    assert recorder.flush()
    assert exporter.value("exporter_client_dropped_total") == 3
    assert exporter.value("conversation_messages_total") == 1


def test_a_message_in_a_generator_ends_with_the_stream_and_not_with_the_handler(
    exporter: Running, recorder: Recorder
) -> None:
    async def stream() -> AsyncIterator[str]:
        async with recorder.message(**LABELS) as message:
            for token in ("a", "b"):
                await asyncio.sleep(0.06)
                message.first_token()
                yield token

    async def read() -> None:
        assert [token async for token in stream()] == ["a", "b"]
        broken_off = stream()
        await anext(broken_off)
        await broken_off.aclose()  # type: ignore[attr-defined]

    asyncio.run(read())
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 1
    assert exporter.value("conversation_time_to_first_token_seconds_count") == 1
    total = exporter.value("conversation_latency_seconds_sum")
    assert total is not None
    assert total >= 0.12
