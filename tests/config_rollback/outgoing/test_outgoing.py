"""Security case 65: what the environment may change in a call, and what it may not."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from config_rollback.outgoing import sessions as outgoing
from tests.config_rollback.auth.test_oidc import CLIENT, Provider, begin
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Browser, Clock, Service
from tests.config_rollback.test_cli import run
from tests.config_rollback.web.test_api_ops import error
from tests.support.tls import self_signed

NOBODY = "http://127.0.0.1:1"
"""A proxy that is not there."""


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


class Heard:
    """A server that answers `{}`, or leads elsewhere, and keeps what it was sent: paths and headers."""

    def __init__(self, certificate: Path | None = None, key: Path | None = None) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.leads_to: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.paths.append(self.path)
                outer.headers.append(dict(self.headers))
                self.send_response(302 if outer.leads_to else 200)
                if outer.leads_to:
                    self.send_header("Location", outer.leads_to)
                self.end_headers()
                self.wfile.write(b"{}")

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if certificate and key:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_port}"


@pytest.fixture
def start_heard() -> Iterator[Callable[..., Heard]]:
    """Starts such servers; all are stopped at the end."""
    running: list[tuple[Heard, Thread]] = []

    def start(*files: Path) -> Heard:
        heard = Heard(*files)
        thread = Thread(target=heard.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((heard, thread))
        return heard

    yield start
    for heard, thread in running:
        heard.server.shutdown()
        thread.join()
        heard.server.server_close()


@pytest.fixture
def heard(start_heard: Callable[..., Heard]) -> Heard:
    return start_heard()


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with an entry for every host."""
    file = tmp_path / "netrc"
    file.write_text("default login me password of-the-netrc\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    return file


def test_65_netrc_does_not_take_the_place_of_a_token(service: Service, netrc: Path, heard: Heard) -> None:
    service.publish()
    assert run("persona", "list", "--url", service.url, "--token", service.token()).exit_code == 0
    run("persona", "list", "--url", heard.url, "--token", "the-token")
    heard.leads_to = heard.url.replace("127.0.0.1", "localhost")
    assert (
        "give the final address with --url"
        in run("persona", "list", "--url", heard.url, "--token", "t").stderr
    )
    assert [headers["Authorization"] for headers in heard.headers] == ["Bearer the-token", "Bearer t"]


def test_65_netrc_goes_to_nobody_whom_the_service_asks(
    start: Callable[..., Service], netrc: Path, heard: Heard, clock: Clock
) -> None:
    with Provider(clock) as provider:
        service = start(prometheus_url=heard.url, oidc_issuer=provider.url, oidc_client_id=CLIENT)
        error(service.request("GET", "/v1/ops/monitoring/conversation-kpis?window=1h"))
        heard.leads_to = heard.url
        with pytest.raises(ValueError, match="redirect"):
            outgoing.fetch(heard.url)
        browser = Browser(service)
        assert browser.get(provider.log_in(begin(browser))).status_code == 303
        browser.close()
    assert len(heard.headers) == 2
    sent = heard.headers + [headers for _, headers in provider.exchanged]
    assert not any("Authorization" in headers for headers in sent)


def test_a_password_in_the_url_is_used(heard: Heard) -> None:
    outgoing.request("GET", heard.url.replace("//", "//me:secret@"), timeout=10)
    (headers,) = heard.headers
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'me:secret').decode()}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "[::1]", "x.localhost"])
def test_65_a_proxy_is_never_asked_for_this_machine(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", heard.url)
    with pytest.raises(requests.ConnectionError):
        outgoing.request("GET", f"http://{host}:1/secret", timeout=10)
    assert heard.paths == []


def test_a_proxy_is_asked_for_other_machines_unless_no_proxy_names_them(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", heard.url)
    monkeypatch.setenv("no_proxy", "near.invalid")
    assert outgoing.request("GET", "http://far.invalid/x", timeout=10).json() == {}
    assert heard.paths == ["http://far.invalid/x"]
    with pytest.raises(requests.ConnectionError):
        outgoing.request("GET", "http://near.invalid/x", timeout=10)


def test_a_prometheus_of_this_machine_is_asked_past_the_proxy(
    start: Callable[..., Service], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOBODY)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    service = start(prometheus_url=heard.url)
    service.request("GET", "/v1/ops/monitoring/conversation-kpis?window=1h")
    assert heard.paths == ["/api/v1/query"]


@pytest.mark.parametrize("name", outgoing.CA_VARIABLES)
def test_a_ca_bundle_of_the_environment_is_used(
    start_heard: Callable[..., Heard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in outgoing.CA_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    self_signed(certificate, key, ["localhost"])
    server = start_heard(certificate, key)
    with pytest.raises(requests.exceptions.SSLError):
        outgoing.request("GET", server.url, timeout=10)
    monkeypatch.setenv(name, str(certificate))
    assert outgoing.request("GET", server.url, timeout=10).status_code == 200
