"""Exporter and clients are killed at random under load: nothing is lost, doubled, or taken back."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import requests

from tests.exporter.faulty_processes import (
    PERSONAS,
    VERSIONS,
    start_client,
    start_counting_client,
    start_exporter,
)
from tests.exporter.running import TOKEN, Client, sample, wait_for
from tests.support.stacks import free_port

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


class Exporter:
    """An exporter that is started again at once when it was killed, perhaps before it was up."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.client = Client(f"http://127.0.0.1:{self.port}")
        self.log = folder / "exporter.log"
        self._environment = {
            "EXPORTER_STATE_DIR": str(folder / "state"),
            "EXPORTER_PORT": str(self.port),
            "EXPORTER_INGEST_TOKENS": TOKEN,
            "EXPORTER_COMPACT_BYTES": "100000",
        }
        self._process = start_exporter(self._environment, self.log)
        self.wait()

    def wait(self) -> None:
        """Wait until it takes pushes."""

        def ready() -> bool:
            assert self._process.is_alive(), self.log.read_text()
            try:
                return requests.get(self.client.url + "/-/ready", timeout=5).status_code == 200
            except requests.RequestException:
                return False

        wait_for(ready)

    def kill(self) -> None:
        assert self._process.is_alive(), self.log.read_text()
        self.end()
        self.start()

    def start(self) -> None:
        self._process = start_exporter(self._environment, self.log)

    def end(self) -> None:
        self._process.kill()
        self._process.join()


class Fleet:
    """Clients that are started again as soon as they were killed."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started = 0
        self._processes = [self._start() for _ in range(CLIENTS)]

    def _start(self) -> BaseProcess:
        self._started += 1
        return start_client(self._url, TOKEN, self._folder / f"client-{self._started}")

    def kill_one(self, position: int) -> None:
        process = self._processes[position]
        assert process.is_alive(), "a client ended by itself"
        process.kill()
        process.join()
        self._processes[position] = self._start()

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def notes(self) -> tuple[Counter[bytes], set[bytes]]:
        """How often each push was sent, and which were acknowledged."""
        sent: Counter[bytes] = Counter()
        acknowledged = set()
        for log in self._folder.glob("client-*"):
            whole, _, _ = log.read_bytes().rpartition(
                b"\n"
            )  # killed in a write: what it noted it had not yet sent
            for line in whole.splitlines():
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


def pushed(bodies: Iterable[bytes]) -> Counter[str]:
    """What these pushes hold: messages by persona and version, their latencies and tokens."""
    total: Counter[str] = Counter()
    for item in (item for body in bodies for item in json.loads(body)["series"]):
        messages = item.get("messages", 0)
        total[f"{item['persona']} {item['config_version']}"] += messages
        # Of a message that is just being recorded, a push may hold the tokens alone, or the labels.
        total["latencies"] += sum(item.get("latency", {}).get("buckets", {}).values())
        total["in error"] += sum(item.get("llm_errors", {}).values())
        total["tokens"] += item.get("tokens", {}).get("input", 0)
    return total


def counted(exporter: Client) -> Counter[str]:
    """The same, as the exporter shows it."""
    text = exporter.scrape()

    def value(name: str, **labels: str) -> int:
        return int(sample(text, name, **labels) or 0)

    return Counter(
        {
            f"{persona} {version}": value(
                "conversation_messages_total", persona=persona, config_version=version
            )
            for persona in PERSONAS
            for version in map(str, VERSIONS)
        }
        | {
            "latencies": value("conversation_latency_seconds_count"),
            "in error": value("conversation_llm_errors_total"),
            "tokens": value("conversation_tokens_total", direction="input"),
        }
    )


def seeded() -> random.Random:
    """Chance that a failed test can be run with again: pytest shows the seed."""
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize(
    "kills", [pytest.param(200, id="200 kills"), pytest.param(1000, id="1000 kills", marks=pytest.mark.soak)]
)
def test_after_random_kills_every_acknowledged_message_is_counted_once(kills: int, tmp_path: Path) -> None:
    chance = seeded()
    exporter = Exporter(tmp_path)
    client = exporter.client
    fleet = Fleet(client.url, tmp_path)
    journal = client.journal()
    try:
        with scraping(client.url) as scraper:
            for _ in range(kills // KILLS_A_ROUND):
                time.sleep(chance.uniform(0, 0.1))
                fleet.kill_one(chance.randrange(CLIENTS))
                # A start takes 0.1 s or longer: half of them die then or soon after, half under load.
                if chance.random() < 0.5:
                    time.sleep(chance.uniform(0, 0.05))
                else:
                    exporter.wait()
                    time.sleep(chance.uniform(0, 0.3))
                exporter.kill()
            exporter.wait()
            time.sleep(2)
            wait_for(lambda: scraper.scrapes > kills / 2, seconds=60)
        fleet.kill_all()
        sent, acknowledged = fleet.notes()
        assert pushed(acknowledged) <= counted(client) <= pushed(sent)
        # Nobody knows whether what was sent last, and not answered, was counted. A retry makes sure of it.
        for body in sent:
            assert client.post("/v1/push", body).status_code == 200
        assert counted(client) == pushed(sent)
        names = Counter((p["client"], p["epoch"], p["seq"]) for p in map(json.loads, sent))
        assert set(names.values()) == {1}, "a sequence number was used for two bodies"
        assert client.journal() == journal
        assert scraper.backwards == []
        # The run was a hard one: answers were lost, retries were sent, and there was something to see.
        assert len(acknowledged) > kills / 2
        assert max(sent.values()) > 1
        assert scraper.scrapes > kills / 2
    finally:
        exporter.end()
        fleet.kill_all()


@pytest.mark.parametrize(
    "kills", [pytest.param(40, id="40 kills"), pytest.param(500, id="500 kills", marks=pytest.mark.soak)]
)
def test_clients_of_two_exporters_lose_and_double_nothing_whichever_is_killed(
    kills: int, tmp_path: Path
) -> None:
    chance = seeded()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    exporters = [Exporter(folder) for folder in folders]
    urls = [exporter.client.url for exporter in exporters]
    stop, reports = tmp_path / "stop", [tmp_path / f"report-{number}" for number in range(CLIENTS)]
    clients = [start_counting_client(urls, TOKEN, stop, report) for report in reports]
    try:
        for _ in range(kills):
            exporter = chance.choice(exporters)
            time.sleep(chance.uniform(0, 0.1))
            exporter.end()
            # Up again before the next is killed, or away together with it for a while.
            time.sleep(chance.choice([0.0, chance.uniform(0, 0.15)]))
            exporter.start()
            if chance.random() < 0.5:
                exporter.wait()
        for exporter in exporters:
            exporter.wait()
        stop.touch()
        for client in clients:
            client.join(90)
            assert client.exitcode == 0
        told = [json.loads(report.read_text()) for report in reports]
        by_exporter = [counted(exporter.client)["latencies"] for exporter in exporters]
        assert [client["flushed"] for client in told] == [True] * CLIENTS
        recorded = sum(client["recorded"] for client in told)
        assert sum(by_exporter) == recorded
        assert sum((counted(e.client) for e in exporters), Counter())["tokens"] == 3 * recorded
        assert [client["acknowledged"] for client in told] == [client["recorded"] for client in told]
        # The run was a hard one: both had their share, outcomes were unknown, clients changed sides.
        assert min(by_exporter) > recorded / 20
        assert sum(client.get("retries", 0) for client in told) > kills / 10
        assert sum(client.get("failovers", 0) for client in told) > kills / 10
    finally:
        for process in clients:
            process.kill()
        for exporter in exporters:
            exporter.end()


def test_the_scraper_sees_a_counter_that_goes_down_or_away() -> None:
    scraper = Scraper("")
    scraper.take('conversation_messages_total{persona="a"} 2\nconversation_messages_total{persona="b"} 1\n')
    scraper.take('conversation_messages_total{persona="a"} 1\n')
    assert len(scraper.backwards) == 2
