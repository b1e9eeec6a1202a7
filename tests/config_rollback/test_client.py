"""The client that services use."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config_rollback import client as client_module
from config_rollback.client import Active, AsyncConfigClient, ConfigClient, NotReadyError
from config_rollback.errors import StorageUnavailableError
from tests.config_rollback.running import CONFIG, SERVICE_TOKEN, Service
from tests.config_rollback.test_delivery import metric, wait_until

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


def test_without_service_and_cache_it_says_that_it_is_not_ready(
    follow: Callable[..., ConfigClient],
) -> None:
    client = follow(NOBODY)
    assert client.current is None
    with pytest.raises(NotReadyError, match="concierge"):
        client.wait_ready(0.05)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"persona": "concierge", "version": "x", "config": {}}']
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

    service.app.state.services.delivery.refresh = refresh
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
    del behind.app.state.services.delivery.refresh
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


def test_pauses_after_failures_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = ConfigClient(NOBODY, token="t", persona="p", cache_dir=tmp_path)
    waited: list[float] = []
    monkeypatch.setattr(client._stopping, "wait", waited.append)
    for failures in range(40):
        client._pause(failures)
    first, longest = client_module.RETRY_SECONDS
    assert first / 2 <= waited[0] <= first
    assert all(longest / 2 <= pause <= longest for pause in waited[10:])


def test_it_needs_nothing_but_the_standard_library() -> None:
    script = (
        "import sys; before = set(sys.modules); import config_rollback.client; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "['config_rollback']\n"


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
            del behind.app.state.services.delivery.refresh
            await asyncio.to_thread(service.publish, temperature=0.5)
            await asyncio.to_thread(
                wait_until, lambda: configs.current is not None and configs.current.version == 3
            )

    asyncio.run(serve())
    asyncio.run(serve_again())
    assert seen == [1, 3]


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("localhost:9811", "a" * 16),
        ("127.0.0.1:9811", "a" * 16),
        ("http://", "a" * 16),
        ("http://127.0.0.1:1", "read from a file\n"),
        ("http://127.0.0.1:1", "cut off\u2026"),
    ],
)
def test_a_url_or_a_token_that_no_request_can_carry_is_refused_at_once(
    tmp_path: Path, url: str, token: str
) -> None:
    with pytest.raises(ValueError, match=r"^(url must begin with http|token holds characters)"):
        ConfigClient(url, token=token, persona="p", cache_dir=tmp_path)
