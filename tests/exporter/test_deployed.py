"""The Recorder as services run it: over TLS, and in the workers of gunicorn."""

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from driftback import Recorder
from tests.exporter.running import TOKEN, Clock, Running, served_by_two_workers, settings_for
from tests.support.stacks import free_port
from tests.support.tls import self_signed

LABELS: dict[str, Any] = {"journey": "chat", "persona": "p", "config_version": "1"}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    self_signed(tmp_path / "certificate.pem", tmp_path / "key.pem", ["localhost"])
    return tmp_path / "certificate.pem"


@pytest.fixture
def behind_tls(certificate: Path, tmp_path: Path) -> Iterator[Running]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    exporter = Running(settings_for(tmp_path / "state"), Clock(), tls)
    exporter.url = exporter.url.replace("http://127.0.0.1", "https://localhost")
    yield exporter
    exporter.stop()


def counted(exporter: Running, certificate: Path) -> str:
    text = requests.get(exporter.url + "/metrics", verify=str(certificate), timeout=10).text
    return "".join(line for line in text.splitlines() if line.startswith("conversation_messages_total"))


def test_over_tls_what_the_system_trusts_is_taken(
    behind_tls: Running, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Recorder(behind_tls.url, token=TOKEN, flush_interval=60) as recorder:
        for _ in range(3):
            recorder.record(**LABELS, latency_ms=5)
            assert recorder.flush()
    assert counted(behind_tls, certificate).endswith(" 3.0")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["unknown authority", "another name"])
def test_over_tls_nothing_is_sent_to_whom_the_certificate_does_not_vouch_for(
    behind_tls: Running, certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    if host != "localhost":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url = behind_tls.url.replace("localhost", host)
    recorder = Recorder(url, token=TOKEN, flush_interval=60)
    recorder.record(**LABELS, latency_ms=5)
    assert not recorder.flush(timeout=0.5)
    assert not recorder.close(timeout=0.5)
    assert counted(behind_tls, certificate) == ""


SERVICE = """
import os
from driftback import Recorder
from driftback.recorder import recorder as recorder_module

recorder_module.EXIT_SECONDS = 60  # however busy the disk is
recorder = Recorder(os.environ["EXPORTER_URL"], token=os.environ["EXPORTER_TOKEN"], flush_interval=60)
recorder.record(journey="chat", persona="master", config_version=1, latency_ms=5)

def application(environ, start_response):
    recorder.record(journey="chat", persona="worker", config_version=1, latency_ms=5)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [str(os.getpid()).encode()]
"""


def test_gunicorns_workers_and_their_master_each_send_their_own_messages(
    exporter: Running, tmp_path: Path
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    sent = served_by_two_workers([*command, "service:application"], port, tmp_path, exporter)
    assert exporter.value("conversation_messages_total", persona="worker") == sent
    assert exporter.value("conversation_messages_total", persona="master") == 1
