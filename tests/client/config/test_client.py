"""The client that services use."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from config_rollback.errors import StorageUnavailableError
from driftback import Active, AsyncConfigClient, ConfigClient, NotReadyError
from driftback.config import client as client_module
from driftback.connection import Answer, ask
from driftback.retry import pause_after
from driftback_server.stack import components
from tests.config_rollback.delivery.test_delivery import metric, wait_until
from tests.config_rollback.running import CONFIG, SERVICE_TOKEN, Service
from tests.support.stacks import free_port

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., ConfigClient]]:
    """Starts a client; arguments may be given by name. All are closed at the end."""
    clients: list[ConfigClient] = []

    def follow(url: str, **changes: Any) -> ConfigClient:
        arguments: dict[str, Any] = {
            "token": SERVICE_TOKEN,
            "persona": "concierge",
            "cache_dir": tmp_path / "cache",
        }
        arguments.update(changes)
        clients.append(ConfigClient(url, **arguments))
        clients[-1].start()
        return clients[-1]

    yield follow
    for client in clients:
        client.close()


def test_it_follows_publications_and_rollbacks(service: Service, follow: Callable[..., ConfigClient]) -> None:
    service.publish()
    client = follow(service.url)
    assert client.wait_ready(10) == Active("concierge", 1, CONFIG)
    service.publish(temperature=1)
    wait_until(lambda: client.current == Active("concierge", 2, CONFIG | {"temperature": 1}))
    service.roll_back(expected_version=2)
    wait_until(lambda: client.current == Active("concierge", 1, CONFIG))


def test_it_reports_what_it_serves(service: Service, follow: Callable[..., ConfigClient]) -> None:
    service.publish()
    follow(service.url, client_id="me").wait_ready(10)
    wait_until(lambda: metric(service, 'config_clients{config_version="1",persona="concierge"} 1.0'))
    service.publish(temperature=1)
    wait_until(lambda: metric(service, 'config_clients{config_version="2",persona="concierge"} 1.0'))


def test_the_callback_comes_before_the_change_is_served(
    service: Service, follow: Callable[..., ConfigClient]
) -> None:
    seen: list[tuple[int, int | None]] = []
    holder: list[ConfigClient] = []
    created = threading.Event()

    def on_change(active: Active) -> None:
        assert created.wait(10)
        serving = holder[0].current
        seen.append((active.version, serving.version if serving else None))

    service.publish()
    holder.append(follow(service.url, on_change=on_change))
    created.set()
    holder[0].wait_ready(10)
    service.publish(temperature=1)
    wait_until(lambda: len(seen) == 2)
    assert seen == [(1, None), (2, 1)]


def test_a_failing_callback_does_not_stop_it(service: Service, follow: Callable[..., ConfigClient]) -> None:
    def on_change(_: Active) -> None:
        raise ZeroDivisionError

    service.publish()
    client = follow(service.url, on_change=on_change)
    assert client.wait_ready(10).version == 1
    service.publish(temperature=1)
    wait_until(lambda: client.current is not None and client.current.version == 2)


def test_the_last_known_configuration_serves_while_the_service_is_down(
    service: Service, follow: Callable[..., ConfigClient]
) -> None:
    service.publish()
    follow(service.url).wait_ready(10)
    again = follow(NOBODY)
    assert again.current == Active("concierge", 1, CONFIG), "known without waiting"


def test_it_comes_back_when_the_service_does(
    start: Callable[..., Service], follow: Callable[..., ConfigClient]
) -> None:
    first = start()
    first.publish()
    client = follow(first.url)
    client.wait_ready(10)
    first.stop()
    start(port=first.port).publish(temperature=1)
    wait_until(lambda: client.current is not None and client.current.version == 2)


def test_a_persona_that_nobody_published_is_told_at_once_and_followed_once_it_is(
    service: Service, follow: Callable[..., ConfigClient], caplog: pytest.LogCaptureFixture
) -> None:
    client = follow(service.url, persona="concirge")
    wait_until(lambda: "concirge" in caplog.text)
    with pytest.raises(NotReadyError, match=r"404 not_found: .*is the persona 'concirge' published"):
        client.wait_ready(0.05)
    wait_until(lambda: metric(service, "config_long_polls 1.0"))
    service.publish("concirge")
    assert client.wait_ready(10).version == 1
    assert caplog.text.count("is the persona") == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (401, {}, b'{"error": {"code": "unauthenticated", "message": "no"}}'),
            "401 unauthenticated: no: is",
        ),
        ((404, {}, b"<html>nginx"), "status 404, and not from config_rollback"),
        ((500, {}, b'{"error": {"code": "internal_error", "message": "oh"}}'), "500 internal_error: oh"),
    ],
    ids=["a token", "a proxy", "a failure"],
)
def test_who_waits_is_told_why_nothing_comes(
    follow: Callable[..., ConfigClient], answer: tuple[int, dict[str, str], bytes], told: str
) -> None:
    with answering(answer) as url:
        client = follow(url)
        wait_until(lambda: bool(client._trouble))
        with pytest.raises(NotReadyError, match=told):
            client.wait_ready(0.05)


def test_without_service_and_cache_it_says_that_it_is_not_ready(
    follow: Callable[..., ConfigClient],
) -> None:
    client = follow(NOBODY)
    assert client.current is None
    with pytest.raises(NotReadyError, match="concierge"):
        client.wait_ready(0.05)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"persona": "concierge", "version": "x", "config": {}}',
        '{"persona": "concierge", "version": Infinity, "config": {}}',
        "[" * 100_000,
    ],
    ids=lambda content: content[:60],
)
def test_a_broken_cache_is_passed_over(
    tmp_path: Path, service: Service, follow: Callable[..., ConfigClient], content: str
) -> None:
    service.publish()
    follow(service.url).wait_ready(10)
    (cache,) = (tmp_path / "cache").iterdir()
    assert json.loads(cache.read_text())["version"] == 1
    cache.write_text(content)
    assert follow(NOBODY).current is None
    assert follow(service.url).wait_ready(10).version == 1


def lagging(service: Service) -> Service:
    """The same, but its memory stays as it is, as if the database were out of its reach."""

    async def refresh() -> None:
        raise StorageUnavailableError("the database failed")

    service.app.state.dependencies.delivery.refresh = refresh
    return service


def rolled_back_beside_one_that_lags(start: Callable[..., Service]) -> tuple[Service, Service]:
    """A replica where version 1 serves again, and one that still serves version 2."""
    service = start()
    service.publish()
    service.publish(temperature=1)
    behind = lagging(start())
    service.roll_back(expected_version=2)
    return service, behind


def test_a_restart_at_a_replica_that_lags_does_not_bring_the_old_version_back(
    start: Callable[..., Service], follow: Callable[..., ConfigClient]
) -> None:
    service, behind = rolled_back_beside_one_that_lags(start)
    first = follow(service.url)
    assert first.wait_ready(10).version == 1
    first.close()
    seen: list[int] = []
    again = follow(behind.url, on_change=lambda active: seen.append(active.version))
    wait_until(lambda: metric(behind, 'config_clients{config_version="1",persona="concierge"} 1.0'))
    del behind.app.state.dependencies.delivery.refresh
    service.publish(temperature=0.5)
    wait_until(lambda: again.current is not None and again.current.version == 3)
    assert seen == [1, 3]


def test_the_tag_of_the_same_configuration_activated_again_is_kept(
    tmp_path: Path, service: Service, follow: Callable[..., ConfigClient]
) -> None:
    service.publish()
    first = follow(service.url)
    first.wait_ready(10)
    first.close()
    (cache,) = (tmp_path / "cache").iterdir()
    service.publish(temperature=1)
    service.roll_back(expected_version=2)
    follow(service.url)
    wait_until(lambda: json.loads(cache.read_text())["etag"] == service.config().headers["ETag"])


@pytest.mark.parametrize("tag", [{}, {"etag": None}, {"etag": 7}, {"etag": '"1-1\r\nX: y"'}, {"etag": "é€"}])
def test_a_cache_without_a_usable_tag_is_asked_about_anew(
    tmp_path: Path, service: Service, follow: Callable[..., ConfigClient], tag: dict[str, Any]
) -> None:
    service.publish()
    first = follow(service.url)
    first.wait_ready(10)
    first.close()
    (cache,) = (tmp_path / "cache").iterdir()
    kept = json.loads(cache.read_text())
    del kept["etag"]
    cache.write_text(json.dumps(kept | tag))
    service.publish(temperature=1)
    again = follow(service.url)
    assert again.current is not None
    wait_until(lambda: again.current is not None and again.current.version == 2)


def test_personas_do_not_share_a_cache(service: Service, follow: Callable[..., ConfigClient]) -> None:
    service.publish("a/b")
    follow(service.url, persona="a/b").wait_ready(10)
    assert follow(NOBODY, persona="a/b").current is not None
    assert follow(NOBODY, persona="a_b").current is None


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, service: Service, follow: Callable[..., ConfigClient]
) -> None:
    service.publish()
    (tmp_path / "file").write_text("")
    assert follow(service.url, cache_dir=tmp_path / "file").wait_ready(10).version == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each request of a client may be held, as they come; failures are followed by no long pause."""
    waits: list[int] = []

    def noted(connection: HTTPConnection, method: str, target: str, *rest: Any) -> Answer:
        waits.append(int(parse_qs(urlsplit(target).query)["wait"][0]))
        return ask(connection, method, target, *rest)

    monkeypatch.setattr(client_module, "ask", noted)
    monkeypatch.setattr(client_module, "RETRY_SECONDS", (0.01, 0.01))
    return waits


def test_a_cache_that_a_full_disk_left_behind_is_written_with_the_next_answer(
    tmp_path: Path,
    follow: Callable[..., ConfigClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    waits: list[int],
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def written() -> list[int]:
        return [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.json")]

    with answering(answer(CONFIG), (304, {}, b"")) as url:
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            follow(url)
            wait_until(lambda: len(waits) >= 4)
        assert caplog.text.count("could not be cached") == 1
        wait_until(lambda: written() != [])
        before, requests = written(), len(waits)
        wait_until(lambda: len(waits) >= requests + 3)
        assert written() == before, "once is enough"
    assert follow(NOBODY).current == Active("concierge", 1, CONFIG)


def test_a_wrong_persona_is_told_at_once_also_when_the_first_requests_failed(
    follow: Callable[..., ConfigClient], waits: list[int]
) -> None:
    unknown: tuple[int, dict[str, str], bytes] = (
        404,
        {},
        b'{"error": {"code": "not_found", "message": "no"}}',
    )
    with answering((502, {}, b"<html>nginx"), (503, {}, b"<html>nginx"), unknown) as url:
        follow(url)
        wait_until(lambda: len(waits) >= 4)
    assert waits[:4] == [0, 0, 0, client_module.WAIT_SECONDS]


def test_a_wrong_token_leaves_it_unready(service: Service, follow: Callable[..., ConfigClient]) -> None:
    service.publish()
    with pytest.raises(NotReadyError):
        follow(service.url, token="wrong").wait_ready(0.5)


def test_closing_ends_the_long_poll(service: Service, follow: Callable[..., ConfigClient]) -> None:
    service.publish()
    client = follow(service.url)
    client.wait_ready(10)
    wait_until(lambda: metric(service, "config_long_polls 1.0"))
    client.close()
    assert client._thread is not None
    client._thread.join(client_module.WAIT_SECONDS / 2)  # on a busy machine; the poll would last longer
    assert not client._thread.is_alive()


def asynchronous(url: str, tmp_path: Path, **changes: Any) -> AsyncConfigClient:
    """One for the test's persona and cache."""
    arguments: dict[str, Any] = {
        "token": SERVICE_TOKEN,
        "persona": "concierge",
        "cache_dir": tmp_path / "cache",
    }
    return AsyncConfigClient(url, **(arguments | changes))


def test_the_asynchronous_one_follows_and_calls_back_in_the_event_loop(
    service: Service, tmp_path: Path
) -> None:
    service.publish()
    seen: list[tuple[int, int | None, str]] = []

    async def follow() -> None:
        loop_thread = threading.current_thread().name

        async def on_change(active: Active) -> None:
            await asyncio.sleep(0.01)
            serving = configs.current
            where = "loop" if threading.current_thread().name == loop_thread else "elsewhere"
            seen.append((active.version, serving.version if serving else None, where))

        async with asynchronous(service.url, tmp_path, on_change=on_change) as configs:
            assert await configs.wait_ready(10) == Active("concierge", 1, CONFIG)
            await asyncio.to_thread(service.publish, temperature=1)
            await asyncio.to_thread(
                wait_until, lambda: configs.current is not None and configs.current.version == 2
            )
            await asyncio.to_thread(service.roll_back, expected_version=2)
            await asyncio.to_thread(wait_until, lambda: configs.current == Active("concierge", 1, CONFIG))

    asyncio.run(follow())
    assert seen == [(1, None, "loop"), (2, 1, "loop"), (1, 2, "loop")]


def test_the_asynchronous_one_leaves_the_event_loop_free(service: Service, tmp_path: Path) -> None:
    async def follow() -> None:
        async with asynchronous(service.url, tmp_path, persona="nobody") as configs:
            with pytest.raises(NotReadyError):
                await configs.wait_ready(0.05)
            waiting = asyncio.create_task(configs.wait_ready(30))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not waiting.done()
            await asyncio.to_thread(service.publish, "nobody")
            assert (await waiting).persona == "nobody"

    asyncio.run(follow())


def test_the_asynchronous_one_can_be_cancelled_while_it_waits(tmp_path: Path) -> None:
    async def give_up() -> int:
        async with asynchronous(NOBODY, tmp_path) as configs:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(configs.wait_ready(3600), 0.1)
            return sum("asyncio" in thread.name for thread in threading.enumerate() if _is_waiting(thread))

    assert asyncio.run(give_up()) == 0


def _is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread is in `wait_ready`."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != "wait_ready":
        frame = frame.f_back
    return frame is not None


def test_the_asynchronous_one_serves_the_last_known_configuration(service: Service, tmp_path: Path) -> None:
    service.publish()
    seen: list[int] = []

    async def follow(url: str) -> Active | None:
        async with asynchronous(
            url, tmp_path, on_change=lambda active: seen.append(active.version)
        ) as configs:
            if url != NOBODY:
                await configs.wait_ready(10)
            return configs.current

    asyncio.run(follow(service.url))
    assert asyncio.run(follow(NOBODY)) == Active("concierge", 1, CONFIG), "known as soon as it has started"
    assert seen == [1, 1]


def test_a_failing_callback_does_not_stop_the_asynchronous_one(service: Service, tmp_path: Path) -> None:
    service.publish()

    async def on_change(_: Active) -> None:
        raise ZeroDivisionError

    async def follow() -> int:
        async with asynchronous(service.url, tmp_path, on_change=on_change) as configs:
            return (await configs.wait_ready(10)).version

    assert asyncio.run(follow()) == 1


def test_the_asynchronous_one_does_not_go_back_with_a_replica_that_lags_either(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service, behind = rolled_back_beside_one_that_lags(start)
    seen: list[int] = []

    async def serve() -> None:
        async with asynchronous(service.url, tmp_path) as configs:
            assert (await configs.wait_ready(10)).version == 1

    async def serve_again() -> None:
        async with asynchronous(
            behind.url, tmp_path, on_change=lambda active: seen.append(active.version)
        ) as configs:
            reported = 'config_clients{config_version="1",persona="concierge"} 1.0'
            await asyncio.to_thread(wait_until, lambda: metric(behind, reported))
            del behind.app.state.dependencies.delivery.refresh
            await asyncio.to_thread(service.publish, temperature=0.5)
            await asyncio.to_thread(
                wait_until, lambda: configs.current is not None and configs.current.version == 3
            )

    asyncio.run(serve())
    asyncio.run(serve_again())
    assert seen == [1, 3]


@pytest.mark.parametrize(
    ("url", "token", "named"),
    [
        ("localhost:9811", "a" * 16, "url must begin"),
        ("127.0.0.1:9811", "a" * 16, "url must begin"),
        ("http://", "a" * 16, "url must begin"),
        ("http://[::1", "a" * 16, "url"),
        ("http://me:secret@127.0.0.1:1", "a" * 16, "url holds a user"),
        ("http://127.0.0.1:1?a=b", "a" * 16, "url ends with a query"),
        ("http://127.0.0.1:1", "read from a file\n", "token holds"),
        ("http://127.0.0.1:1", "cut off\u2026", "token holds"),
        ("http://127.0.0.1:1", "", "token holds"),
    ],
)
def test_a_url_or_a_token_that_no_request_can_carry_is_refused_at_once(
    tmp_path: Path, url: str, token: str, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        ConfigClient(url, token=token, persona="p", cache_dir=tmp_path)


class Scripted(BaseHTTPRequestHandler):
    """Gives the server's answers one after the other, and the last for ever: status, headers, body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        answers: list[tuple[int, dict[str, str], bytes]] = self.server.answers  # type: ignore[attr-defined]
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes], host: str = "127.0.0.1") -> Iterator[str]:
    """A server that answers so; its URL."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    server = Server((host, 0), Scripted)
    server.answers = list(answers)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(config: Any, version: Any = 1) -> tuple[int, dict[str, str], bytes]:
    """The server's, as far as the client reads it."""
    body = json.dumps({"data": {"persona": "concierge", "version": version, "config": config}}).encode()
    return 200, {"ETag": f'"{version}-{version}-00000000"'}, body


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": {"version": Infinity, "config": {}}}',
        b"[" * 100_000,
        b'{"data": 7}',
        b"\xff",
    ],
    ids=["a number without end", "brackets without end", "no object", "no text"],
)
def test_an_answer_that_makes_no_sense_does_not_end_it(
    follow: Callable[..., ConfigClient], body: bytes
) -> None:
    with answering((200, {"ETag": '"1"'}, body), answer(CONFIG)) as url:
        assert follow(url).wait_ready(10) == Active("concierge", 1, CONFIG)


def test_65_a_proxy_or_a_netrc_of_the_environment_is_not_asked(
    service: Service, follow: Callable[..., ConfigClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password something\n")
    (tmp_path / ".netrc").chmod(0o600)
    service.publish()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert follow(service.url).wait_ready(10).version == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_path_of_the_url_and_an_address_of_ipv6_are_served(
    follow: Callable[..., ConfigClient], host: str
) -> None:
    with answering(answer(CONFIG), host=host) as url:
        assert follow(f"{url}/behind/a/proxy/").wait_ready(10).config == CONFIG


DROPPING = """
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            {drops};
            proxy_pass {url};
        }}
    }}
}}
"""


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Callable[[Service, str], str]]:
    """Starts a real nginx in front of a service, with a directive of its own; its URL."""
    nginx = components.ensure(["nginx"])["nginx"]
    started: list[subprocess.Popen[bytes]] = []

    def start(service: Service, drops: str) -> str:
        port = free_port()
        conf = tmp_path / "nginx.conf"
        conf.write_text(DROPPING.format(folder=tmp_path, port=port, drops=drops, url=service.url))
        command = [str(nginx), "-e", "stderr", "-p", str(tmp_path), "-c", str(conf), "-g", "daemon off;"]
        started.append(subprocess.Popen(command))

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(accepts)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    "drops",
    [
        "proxy_hide_header ETag",
        'proxy_set_header If-None-Match ""',
        "proxy_set_header If-None-Match $request_id",
    ],
    ids=["the tag", "the question for it", "it is another one"],
)
def test_a_proxy_that_drops_tags_is_not_asked_in_a_frenzy_and_nothing_is_written_anew(
    service: Service,
    follow: Callable[..., ConfigClient],
    behind: Callable[[Service, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    drops: str,
) -> None:
    waited: list[int] = []

    def noted(number: int, first: float, longest: float) -> float:
        waited.append(number)
        return pause_after(number, first, longest)

    monkeypatch.setattr(client_module, "pause_after", noted)
    monkeypatch.setattr(client_module, "EARLY_SECONDS", 20)  # however busy the machine is
    monkeypatch.setattr(client_module, "EARLY_ANSWERS", 3)
    service.publish()
    seen: list[int] = []
    client = follow(behind(service, drops), on_change=lambda active: seen.append(active.version))
    client.wait_ready(10)
    (cache,) = (tmp_path / "cache").iterdir()
    wait_until(lambda: len(waited) >= 1)
    written = cache.stat().st_mtime_ns
    wait_until(lambda: len(waited) >= 3)
    requests = (tmp_path / "access.log").read_text().count("GET ")
    assert requests <= len(waited) + 3, "each answer that did not wait is followed by a pause"
    assert waited[:3] == [0, 1, 2]
    assert cache.stat().st_mtime_ns == written
    assert "Does a proxy between drop ETag" in caplog.text
    service.publish(temperature=1)
    wait_until(lambda: client.current is not None and client.current.version == 2)
    assert seen == [1, 2]
    wait_until(lambda: json.loads(cache.read_text())["version"] == 2)
