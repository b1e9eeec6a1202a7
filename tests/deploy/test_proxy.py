"""deploy/nginx.conf in front of a real config_rollback: TLS, time-outs, and nothing else reachable."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests

from config_rollback.web.api.configs import MAX_WAIT_SECONDS
from driftback_server.stack import components
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import SERVICE_TOKEN, Clock, Service, fields
from tests.support import tls
from tests.support.commands import run
from tests.support.documents import Documents
from tests.support.processes import process
from tests.support.stacks import ROOT, free_port, wait_for

CONF = (ROOT / "deploy" / "nginx.conf").read_text()
ROLLBACK, GRAFANA = tls.NAMES
URL = f"https://{ROLLBACK}"


@dataclass(frozen=True)
class Proxy:
    service: Service
    certificate: Path
    port: int
    plain_port: int

    def session(self, host: str = ROLLBACK) -> requests.Session:
        return tls.session(host, self.port, self.certificate)


def _here(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        assert name in text, name
        text = text.replace(name, place)
    return text


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    nginx = components.ensure(["nginx"])["nginx"]
    folder = tmp_path_factory.mktemp("proxy")
    certificate, key = folder / "certificate", folder / "key"
    tls.self_signed(certificate, key)
    with Documents(login=b"Grafana") as grafana:
        service = Service(Sqlite(folder / "config_rollback.db"), Clock(), external_url=URL).start()
        running = Proxy(service, certificate, free_port(), free_port())
        places = {
            "http://config_rollback:9811": service.url,
            "http://grafana:3000": grafana.url,
            "listen 8443": f"listen 127.0.0.1:{running.port}",
            "listen 8080": f"listen 127.0.0.1:{running.plain_port}",
            "/run/secrets/tls_certificate": str(certificate),
            "/run/secrets/tls_key": str(key),
            "/tmp/nginx": str(folder / "nginx"),
            "/dev/stdout": str(folder / "access.log"),
            "/dev/stderr": str(folder / "error.log"),
            "client_header_timeout 10s": "client_header_timeout 4s",
        }
        (folder / "nginx.conf").write_text(_here(CONF, places))
        command = [str(nginx), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        run(*command, "-t")
        with process([*command, "-g", "daemon off;"], folder / "log", lambda: _accepts(running.port)):
            yield running
        service.stop()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_operator_logs_in_and_rolls_back_through_it(proxy: Proxy) -> None:
    service = proxy.service
    service.publish("tutor")
    service.publish("tutor", temperature=0.9)
    token = unquote(service.login_link().partition("token=")[2].partition("&")[0])
    with proxy.session() as browser:
        browser.headers["Origin"] = URL
        answer = browser.post(f"{URL}/login", data={"token": token}, allow_redirects=False, timeout=20)
        assert answer.status_code == 303, answer.text
        assert "; Secure" in answer.headers["Set-Cookie"]
        page = browser.get(f"{URL}/rollback/tutor?from=2", timeout=20).text
        answer = browser.post(
            f"{URL}/rollback/tutor", data=fields(page) | {"reason": "test"}, allow_redirects=False, timeout=20
        )
        assert answer.status_code == 303, answer.text
    assert service.active_version("tutor") == 1


def test_a_long_poll_waits_behind_it_and_is_woken(proxy: Proxy) -> None:
    read_timeout = re.search(r"config_rollback:9811;.*?proxy_read_timeout (\d+)s;", CONF, re.S)
    assert read_timeout is not None
    assert int(read_timeout[1]) > MAX_WAIT_SECONDS
    proxy.service.publish("guide")
    with proxy.session() as client, ThreadPoolExecutor(1) as thread:
        client.headers["Authorization"] = f"Bearer {SERVICE_TOKEN}"
        address = f"{URL}/v1/personas/guide/config"
        tag = client.get(address, timeout=20).headers["ETag"]
        begun = time.monotonic()
        assert client.get(f"{address}?wait=2", headers={"If-None-Match": tag}, timeout=20).status_code == 304
        assert time.monotonic() - begun >= 1.9
        waiting = thread.submit(
            client.get, f"{address}?wait={MAX_WAIT_SECONDS}", headers={"If-None-Match": tag}, timeout=90
        )
        delivery = proxy.service.app.state.dependencies.delivery
        wait_for("a waiting client", 20, lambda: delivery.waiting > 0, pause=0.02)
        proxy.service.publish("guide", temperature=0.9)
        assert waiting.result(30).json()["data"]["version"] == 2


@pytest.mark.parametrize("path", ["/metrics", "/v1/alerts", "/-/ready", "/-/healthy"])
def test_what_is_for_the_inside_is_not_found(proxy: Proxy, path: str) -> None:
    assert requests.get(proxy.service.url + path, timeout=20).status_code != 404
    with proxy.session() as browser:
        assert browser.get(URL + path, timeout=20).status_code == 404


def test_grafana_has_its_own_name(proxy: Proxy) -> None:
    with proxy.session(GRAFANA) as browser:
        answer = browser.get(f"https://{GRAFANA}/login", timeout=20)
        assert (answer.status_code, answer.content) == (200, b"Grafana")
        assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_plain_http_is_sent_to_tls(proxy: Proxy) -> None:
    answer = requests.get(
        f"http://127.0.0.1:{proxy.plain_port}/audit?x=1",
        headers={"Host": ROLLBACK},
        allow_redirects=False,
        timeout=20,
    )
    assert (answer.status_code, answer.headers["Location"]) == (301, f"{URL}/audit?x=1")


def test_another_name_gets_no_handshake(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as raw,
        pytest.raises(ssl.SSLError, match=r"UNRECOGNIZED_NAME|unrecognized name"),
    ):
        context.wrap_socket(raw, server_hostname="evil.example.org")
    with proxy.session() as browser:
        request = requests.Request("GET", f"{URL}/", headers={"Host": "evil.example.org"})
        answer = browser.send(browser.prepare_request(request), timeout=20)
        assert answer.status_code == 421


def test_who_sends_headers_slowly_is_let_go(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname=ROLLBACK) as connection,
    ):
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {ROLLBACK}\r\n".encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer == b"" or b" 408 " in answer.split(b"\r\n")[0]


def test_a_body_past_the_limit_is_refused(proxy: Proxy) -> None:
    with proxy.session() as client:
        answer = client.post(f"{URL}/v1/ops/personas/tutor/versions", data=b" " * 2_000_000, timeout=20)
    assert answer.status_code == 413
