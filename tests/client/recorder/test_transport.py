"""One push over HTTP: where it goes, and what an answer proves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftback import Recorder
from driftback.recorder.transport import Transport
from tests.exporter.running import TOKEN, Running, wait_for

LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": "1"}


def test_a_server_that_is_no_exporter_acknowledges_nothing(
    recorder_for: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "_post", lambda *_: (200, b"<h1>Welcome to nginx!</h1>"))
    recorder = recorder_for("http://127.0.0.1:1")
    recorder.record(**LABELS, latency_ms=5)
    assert not recorder.flush(timeout=0.1)


def test_a_connection_that_the_exporter_has_closed_is_made_anew_without_a_word(
    exporter: Running, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.flush()
    exporter.close_connections()
    wait_for(lambda: exporter.connections() == 0)
    recorder.record(**LABELS, latency_ms=5)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 2
    assert caplog.records == []


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://[::1]", "::1", 80, "/v1/push"),
        ("http://[::1]:9810", "::1", 9810, "/v1/push"),
        ("https://[::1]/", "::1", 443, "/v1/push"),
        ("HTTP://Exporter.example:9810/a/b/", "Exporter.example", 9810, "/a/b/v1/push"),
        ("http://exporter:", "exporter", 80, "/v1/push"),
    ],
)
def test_a_url_is_served_as_it_says(url: str, host: str, port: int, path: str) -> None:
    transport = Transport(url, TOKEN)
    assert (transport._connection.host, transport._connection.port) == (host, port)
    assert transport._path == path


def test_it_sends_to_an_exporter_that_listens_on_ipv6(start: Callable[..., Running]) -> None:
    exporter = start(host="::1")
    port = exporter.url.rpartition(":")[2]
    with Recorder(f"http://[::1]:{port}", TOKEN) as recorder:
        recorder.record(**LABELS, latency_ms=5)
        assert recorder.flush()
        assert recorder.counts().acknowledged == 1


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9810",
        "http://",
        "ftp://exporter",
        "http://[::1",
        "http://exporter:99999",
        "http://exporter:0",
        "http://exporter:x",
        "http://user:secret@exporter",
        "http://exporter?a=b",
        "http://exporter/a?b",
        "http://exporter/#a",
        "http://exporter/a b",
        "http://exporter/ä",
        "http://ex porter",
    ],
)
def test_a_url_that_cannot_be_served_as_it_says_is_refused_and_no_password_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url") as refused:
        Recorder(url, TOKEN)
    assert "secret" not in str(refused.value)


def test_65_a_proxy_or_a_netrc_of_the_environment_is_not_asked(
    exporter: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password something\n")
    (tmp_path / ".netrc").chmod(0o600)
    with monkeypatch.context() as environment:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            environment.setenv(name, "http://127.0.0.1:1")
        environment.setenv("NETRC", str(tmp_path / ".netrc"))
        environment.setenv("HOME", str(tmp_path))
        with Recorder(exporter.url, TOKEN) as recorder:
            recorder.record(**LABELS, latency_ms=5)
            assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 1
