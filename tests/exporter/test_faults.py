"""Exporter and clients are killed at random under load: nothing is lost, doubled, or taken back."""

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.exporter.running import TOKEN, Client, Process

CLIENTS = 3
KILLS_A_ROUND = 2


class Scraper(threading.Thread):
    """Scrapes all the time and notes every counter that went down or went away."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._end = threading.Event()
        self._last: dict[str, float] = {}
        self.scrapes = 0
        self.backwards: list[str] = []

    def run(self) -> None:
        while not self._end.wait(0.02):
            try:
                text = requests.get(self._url + "/metrics", timeout=5).text
            except requests.RequestException:
                continue
            self.take(text)

    def take(self, text: str) -> None:
        """Compare a whole scrape with the one before."""
        now = {}
        for line in text.splitlines():
            name = line.partition("{")[0]
            if name.startswith("conversation_") and name.endswith(("_total", "_bucket", "_count", "_sum")):
                series, _, value = line.rpartition(" ")
                now[series] = float(value)
        for series, before in self._last.items():
            if now.get(series, -1.0) < before:
                self.backwards.append(f"{series}: {before} -> {now.get(series)}")
        self._last = now
        self.scrapes += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


class Fleet:
    """Clients that are started again as soon as they were killed."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started = 0
        self._processes = [self._start() for _ in range(CLIENTS)]

    def _start(self) -> "subprocess.Popen[bytes]":
        self._started += 1
        log = self._folder / f"client-{self._started}"
        return subprocess.Popen(
            [sys.executable, "-m", "tests.exporter.faulty_client", self._url, TOKEN, str(log)],
            stderr=subprocess.DEVNULL,
        )

    def kill_one(self, position: int) -> None:
        process = self._processes[position]
        assert process.poll() is None, "a client ended by itself"
        process.kill()
        process.wait()
        self._processes[position] = self._start()

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def notes(self) -> tuple[Counter[bytes], set[bytes]]:
        """How often each push was sent, and which were acknowledged."""
        sent: Counter[bytes] = Counter()
        acknowledged = set()
        for log in self._folder.glob("client-*"):
            for line in log.read_bytes().splitlines():
                if line.startswith(b"> "):
                    sent[line[2:]] += 1
                else:
                    acknowledged.add(line[2:])
        return sent, acknowledged


@contextmanager
def scraping(url: str) -> Iterator[Scraper]:
    scraper = Scraper(url)
    scraper.start()
    try:
        yield scraper
    finally:
        scraper.stop()


def messages_of(bodies: set[bytes]) -> int:
    return sum(item.get("messages", 0) for body in bodies for item in json.loads(body)["series"])


def counted(exporter: Client) -> int:
    return int(exporter.value("conversation_messages_total") or 0)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(24, id="24 kills"),
        pytest.param(200, id="200 kills", marks=pytest.mark.soak),
        pytest.param(1000, id="1000 kills", marks=pytest.mark.soak),
    ],
)
def test_after_random_kills_every_acknowledged_message_is_counted_once(kills: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    chance = random.Random()
    exporter = Process(tmp_path / "state", EXPORTER_PORT=port, EXPORTER_COMPACT_BYTES="200000")
    fleet = Fleet(exporter.url, tmp_path)
    journal = exporter.journal()
    try:
        with scraping(exporter.url) as scraper:
            for _ in range(kills // KILLS_A_ROUND):
                time.sleep(chance.uniform(0, 0.15))
                fleet.kill_one(chance.randrange(CLIENTS))
                time.sleep(chance.uniform(0, 0.15))
                exporter.end(signal.SIGKILL)
                exporter = Process(tmp_path / "state", EXPORTER_PORT=port, EXPORTER_COMPACT_BYTES="200000")
                assert exporter.url, exporter.log
            time.sleep(2)
        fleet.kill_all()
        sent, acknowledged = fleet.notes()
        assert messages_of(acknowledged) <= counted(exporter) <= messages_of(set(sent))
        # Nobody knows whether what was sent last, and not answered, was counted. A retry makes sure of it.
        for body in sent:
            assert exporter.post("/v1/push", body).status_code == 200
        assert counted(exporter) == messages_of(set(sent))
        names = Counter((p["client"], p["epoch"], p["seq"]) for p in map(json.loads, sent))
        assert set(names.values()) == {1}, "a sequence number was used for two bodies"
        assert exporter.journal() == journal
        assert scraper.backwards == []
        # The run was a hard one: answers were lost, retries were sent, and there was something to see.
        assert len(acknowledged) > kills / 2
        assert max(sent.values()) > 1
        assert scraper.scrapes > kills / 2
    finally:
        exporter.end(signal.SIGKILL)
        fleet.kill_all()


def test_the_scraper_sees_a_counter_that_goes_down_or_away() -> None:
    scraper = Scraper("")
    scraper.take('conversation_messages_total{persona="a"} 2\nconversation_messages_total{persona="b"} 1\n')
    scraper.take('conversation_messages_total{persona="a"} 1\n')
    assert len(scraper.backwards) == 2
