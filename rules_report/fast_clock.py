"""The counting rules in live Prometheus at a fast clock, against the exact log of what happened.

Faults and windows are `SCALE` times as fast as in production; nothing but the durations of the shipped
rules is changed. Two Prometheus watch the same exporters: A runs throughout, B is killed and later stays
down for "two hours". Each persona is one scenario with two replicas (journals) or more. Messages come in
bursts at the start of each second, faults at its end. An evaluation is checked where both ends of its window
lie between a burst and the next fault for every living replica, so that there is one right answer. A probe
shows whether they do: each replica exposes when it answered, and a rule before the shipped ones and one
after them record what this evaluation saw. So a busy machine leaves fewer checks, not wrong ones.
"""

import http.server
import json
import os
import random
import re
import signal
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import requests
import yaml

from rules.build import RULES
from rules_report import prometheus

SCALE = 900  # an hour takes 4 seconds
SCRAPE_SECONDS = 0.1
EVALUATION_SECONDS = 0.2
BURST_SECONDS = 0.3
FAULT_PHASE = 0.97
PROBE = "fast_clock_served_seconds"
BOUNDS = ("0.5", "2.0", "+Inf")
PERSONAS = (
    "no fault", "restart", "state lost", "down 10 min", "down 90 min", "replica added", "replica removed",
    "renamed, then scraped twice", "high counters", "new version", "all at once",
)  # fmt: skip
EXPIRED = "expired, then back"
"""The name of "new version" once its first version is dropped for being unused."""
EXPIRY_SECOND = 773  # 8 days after the first version had its last message
SIDE_BY_SIDE = "two Prometheus side by side"
WATCHERS = ("A", "B")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def scaled(expression: str, scale: int = SCALE) -> str:
    """The same PromQL with every duration divided by `scale`."""

    def milliseconds(match: re.Match[str]) -> str:
        before, number, unit, after = match.groups()
        return f"{before}{round(int(number) * _SECONDS[unit] * 1000 / scale)}ms{after}"

    expression = re.sub(r"(\[)(\d+)([smhd])(\])", milliseconds, expression)
    expression = re.sub(r"(offset )(\d+)([smhd])()", milliseconds, expression)
    return re.sub(r"time\(\) - (\d+)", lambda m: f"time() - {int(m[1]) / scale:g}", expression)


def counting_rules() -> list[dict[str, Any]]:
    """The shipped rules up to the counts per version and window."""
    document = yaml.safe_load((RULES / "recording.yml").read_text(encoding="utf-8"))
    rules: list[dict[str, Any]] = document["groups"][0]["rules"]
    end = max(index for index, rule in enumerate(rules) if rule["record"].endswith(":sum"))
    return rules[: end + 1]


@dataclass
class Replica:
    """One exporter: counts per version, its journal, and when each watcher scraped it."""

    persona: str
    journal: str
    versions: list[str]
    initial: int = 0
    created: dict[str, float] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    up: bool = True
    lives: tuple[float, float] = (0.0, float("inf"))

    def declare(self, version: str) -> None:
        """A label set known from now on."""
        if version not in self.counts:
            self.counts[version] = [self.initial] * (3 + len(BOUNDS))
            self.created[version] = time.time() - (1e8 if self.initial else 0)

    def count(self, version: str, out_of_scope: bool, error: bool, bucket: int) -> None:
        """One message."""
        counts = self.counts[version]
        counts[0] += 1
        counts[1] += out_of_scope
        counts[2] += error
        for index in range(bucket, len(BOUNDS)):
            counts[3 + index] += 1

    def lose(self) -> None:
        """Starts again from nothing under a new journal."""
        self.journal += "x"
        self.initial = 0
        self.counts.clear()
        self.created.clear()
        for version in self.versions:
            self.declare(version)

    def text(self) -> str:
        """The exposition."""
        lines = []
        for version, counts in self.counts.items():
            labels = (
                f'journal="{self.journal}",journey="chat",persona="{self.persona}",config_version="{version}"'
            )
            lines.append(f"conversation_created_timestamp_seconds{{{labels}}} {self.created[version]:.3f}")
            lines.append(f"conversation_messages_total{{{labels}}} {counts[0]}")
            lines.append(f"conversation_out_of_scope_total{{{labels}}} {counts[1]}")
            lines.append(f'conversation_llm_errors_total{{{labels},reason="timeout"}} {counts[2]}')
            lines += [
                f'conversation_latency_seconds_bucket{{{labels},le="{bound}"}} {counts[3 + index]}'
                for index, bound in enumerate(BOUNDS)
            ]
        return "\n".join(lines) + "\n"


class World:
    """The exporters, what happened on them, and the faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.random = random.Random(7)
        self.events: dict[tuple[str, str], list[list[float]]] = {}
        self.replicas: dict[str, Replica] = {}
        self.targets: dict[str, str] = {}  # instance: replica
        self.started = float("inf")
        self.quiet: dict[int, float] = {}  # second: when its burst was over
        self.current = dict.fromkeys(PERSONAS, "1")
        for persona in PERSONAS:
            for number in "12":
                self.add(persona, number, 100_000 if persona == "high counters" else 0)

    def add(self, persona: str, number: str, initial: int = 0) -> Replica:
        """A replica that is scraped from now on."""
        name = f"{persona.replace(' ', '-')}-{number}"
        replica = Replica(persona, f"J-{name}", [self.current[persona]], initial, lives=(time.time(), 1e18))
        replica.declare(self.current[persona])
        self.replicas[name] = replica
        self.targets[name] = name
        return replica

    def write_targets(self, address: str) -> None:
        """For Prometheus' file discovery, one file per watcher."""
        for watcher in WATCHERS:
            entries = [
                {"targets": [address], "labels": {"instance": i, "__metrics_path__": f"/{watcher}/{name}"}}
                for i, name in self.targets.items()
            ]
            path = self.folder / f"targets-{watcher}.json"
            path.with_suffix(".new").write_text(json.dumps(entries), encoding="utf-8")
            path.with_suffix(".new").replace(path)

    def message(self, replica: Replica, version: str) -> None:
        """One message, counted and logged."""
        bucket, flags = (
            self.random.choice((0, 0, 1, 2)),
            (self.random.random() < 0.2, self.random.random() < 0.1),
        )
        replica.count(version, *flags, bucket)
        now = time.time()
        log = self.events.setdefault((replica.persona, version), [[] for _ in range(3 + len(BOUNDS))])
        kinds = [0, *(1 + index for index, flag in enumerate(flags) if flag)]
        for kind in kinds + [3 + index for index in range(bucket, len(BOUNDS))]:
            log[kind].append(now)

    def burst(self) -> None:
        """A few messages on every living replica."""
        with self.lock:
            for replica in self.replicas.values():
                if replica.lives[1] > time.time() and self.random.random() < 0.3:
                    self.message(replica, self.current[replica.persona])

    def born(self, persona: str, version: str, count: int) -> None:
        """A version that serves from now on, with messages before its first scrape."""
        self.current[persona] = version
        for replica in self._of(persona):
            replica.versions.append(version)
            replica.declare(version)
            for _ in range(count):
                self.message(replica, version)

    def expire(self, persona: str, version: str) -> None:
        """Drops a version that had no message for eight days."""
        for replica in self._of(persona):
            replica.versions.remove(version)
            del replica.counts[version], replica.created[version]

    def die(self, name: str) -> None:
        """A replica that is gone for good."""
        replica = self.replicas[name]
        replica.lives, replica.up = (replica.lives[0], time.time()), False
        del self.targets[name]

    def _of(self, persona: str) -> list[Replica]:
        now = time.time()
        return [r for r in self.replicas.values() if r.persona == persona and r.lives[1] > now]

    def settled(self, persona: str, seen: "Seen", at: float) -> bool:
        """Whether the evaluation at or before `at` saw every living replica between burst and fault."""
        if at < self.started:
            return True
        second = int(at)
        quiet, busy = self.quiet.get(second, float("inf")), second + FAULT_PHASE
        return quiet <= at < busy and all(
            seen.within(name, at, quiet, busy)
            for name, replica in self.replicas.items()
            if replica.persona == persona and replica.lives[0] < at < replica.lives[1]
        )


class Seen:
    """What the probe rules of a watcher recorded, per replica: when the scrape was answered that they saw."""

    def __init__(self, series: list[dict[str, Any]]) -> None:
        self._recorded = {
            (one["metric"]["rule"], one["metric"]["replica"]): (
                [float(at) for at, _ in one["values"]],
                [float(value) for _, value in one["values"]],
            )
            for one in series
        }

    def within(self, replica: str, at: float, earliest: float, latest: float) -> bool:
        """Whether all rules of the last evaluation until `at` saw an answer of between these moments."""
        evaluations = []
        for rule in ("first", "last"):
            times, values = self._recorded.get((rule, replica), ([], []))
            index = bisect_right(times, at) - 1
            if index < 0 or not earliest <= values[index] < latest:
                return False
            evaluations.append(times[index])
        return evaluations[0] == evaluations[1]


@dataclass(frozen=True)
class Result:
    """Checks of one scenario, window and watcher: how many, how many exact, the largest error in counts."""

    scenario: str
    window: str
    watcher: str
    checked: int
    exact: int
    worst: float


class _Watcher:
    def __init__(self, program: Path, folder: Path, name: str) -> None:
        self.name, self._folder, self._program = name, folder, program
        rules = [{**rule, "expr": scaled(rule["expr"])} for rule in counting_rules()]
        seen = f"max by (replica) (last_over_time({PROBE}[{SCRAPE_SECONDS * 3000:.0f}ms]))"
        first, last = (
            {"record": "fast_clock:served", "labels": {"rule": rule}, "expr": seen}
            for rule in ("first", "last")
        )
        groups = {"groups": [{"name": "kpi", "rules": [first, *rules, last]}]}
        (folder / "rules.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        job = {
            "job_name": "exporter",
            "file_sd_configs": [{"files": [str(folder / f"targets-{name}.json")], "refresh_interval": "1s"}],
        }
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms",
                "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms",
                "evaluation_interval": f"{EVALUATION_SECONDS * 1000:.0f}ms",
            },
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [job],
        }
        (folder / f"{name}.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.start()

    def start(self) -> None:
        self.process, self.url = prometheus.start(
            self._program,
            self._folder / f"{self.name}.yml",
            self._folder / f"data-{self.name}",
            self._folder / f"{self.name}.log",
            "--query.lookback-delta=1s",
            "--query.max-samples=100000000",
        )

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        self.process.send_signal(with_signal)
        self.process.wait(timeout=30)

    def wait_for(self, count: int) -> None:
        """Until the rules have seen this many label sets."""
        deadline = time.monotonic() + 30
        while True:
            answer = requests.get(self.url, params={"query": "count(kpi:messages:first)"}, timeout=10).json()
            if [float(row["value"][1]) for row in answer["data"]["result"]] == [count]:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the rules see {answer['data']}, not {count} label sets")
            time.sleep(0.1)

    def samples(self, name: str, since: float, until: float) -> list[dict[str, Any]]:
        """The raw samples of a series between two moments, with the times of their evaluations."""
        data = {"query": f"{name}[{int(until - since) + 1}s]", "time": str(until)}
        answer = requests.post(self.url, data=data, timeout=120).json()
        if answer["status"] != "success":
            raise RuntimeError(str(answer))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def run(program: Path, folder: Path, seconds: float) -> list[Result]:
    """Runs all scenarios for this long (at least 35 s); the checks per scenario, window and watcher."""
    world = World(folder)
    with _serve(world) as address:
        world.write_targets(address)
        watchers: dict[str, _Watcher] = {}
        try:
            for name in WATCHERS:
                watchers[name] = _Watcher(program, folder, name)
            for watcher in watchers.values():
                watcher.wait_for(len(world.replicas))
            world.started = float(int(time.time()) + 1)
            _drive(world, watchers["B"], address, seconds)
            until = time.time()
            checks = {name: _checks(world, watcher, until) for name, watcher in watchers.items()}
        finally:
            for watcher in watchers.values():
                watcher.stop()
    return [
        *(result for name in WATCHERS for result in _tallied(name, checks[name])),
        *_side_by_side(checks["A"], checks["B"]),
    ]


class _serve:  # noqa: N801 - used as a function
    def __init__(self, world: World) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                with world.lock:
                    replica = world.replicas[name]
                    probe = f'{PROBE}{{replica="{name}"}} {time.time():.6f}\n'
                    body = (replica.text() + probe).encode() if replica.up else b""
                try:
                    self.send_response(200 if body else 503)
                    self.send_header("Content-Type", "text/plain; version=0.0.4")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:  # the watcher was killed or gave up
                    return

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                """Says nothing."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A watcher that was killed leaves its connections open."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _drive(world: World, killed: _Watcher, address: str, seconds: float) -> None:
    """Bursts and faults, second by second."""
    reps = world.replicas

    def up(*names: str, to: bool) -> None:
        for name in names:
            reps[name].up = to

    def added(persona: str) -> None:
        replica = world.add(persona, "3")
        for _ in range(7):
            world.message(replica, world.current[persona])

    faults: list[tuple[int, Callable[[], object]]] = [
        (4, lambda: up("restart-1", "down-10-min-1", "down-90-min-1", to=False)),
        (4, lambda: reps["state-lost-1"].lose()),
        (4, lambda: added("replica added")),
        (4, lambda: world.die("replica-removed-1")),
        (4, lambda: world.born("new version", "2", 5)),
        (5, lambda: up("restart-1", "down-10-min-1", to=True)),
        (6, lambda: up("all-at-once-1", "all-at-once-2", to=False)),
        (6, lambda: reps["all-at-once-1"].lose()),
        (8, lambda: world.born("all at once", "2", 6)),
        (9, lambda: up("all-at-once-1", "all-at-once-2", to=True)),
        (10, lambda: up("down-90-min-1", to=True)),
        (11, lambda: added("all at once")),
        (13, lambda: world.die("all-at-once-2")),
        (14, lambda: killed.stop(signal.SIGKILL)),
        (15, killed.start),
        (20, killed.stop),
        (28, killed.start),
        (4, lambda: world.targets.update({"renamed": world.targets.pop("renamed,-then-scraped-twice-1")})),
        (12, lambda: world.targets.update({"again": world.targets["renamed"]})),
        (EXPIRY_SECOND, lambda: world.expire("new version", "1")),
        (EXPIRY_SECOND + 5, lambda: world.born("new version", "1", 4)),
    ]
    for second in range(int(seconds)):
        begin = world.started + second
        while time.time() < begin + BURST_SECONDS:
            if time.time() > begin + 0.01:
                world.burst()
            time.sleep(0.05)
        world.quiet[int(begin)] = time.time()
        _sleep_until(begin + FAULT_PHASE)
        due = [act for at, act in faults if at == second]
        for act in due:
            with world.lock:
                act()
        if due:
            world.write_targets(address)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


@dataclass(frozen=True)
class _Check:
    """A count at a moment that has one right answer; `where` names series, window and second."""

    scenario: str
    window: str
    where: tuple[str, ...]
    value: float
    truth: int


def _checks(world: World, watcher: _Watcher, until: float) -> list[_Check]:
    """Every check between the first burst and `until`, no matter how long after that they are made."""
    seen = Seen(watcher.samples("fast_clock:served", world.started, until))

    @cache  # many series have samples of the same moment
    def clean(persona: str, at: float, since: float) -> bool:
        return world.settled(persona, seen, at) and world.settled(persona, seen, since)

    names = ["messages", "out_of_scope", "llm_errors", "latency_bucket"]
    lengths = {"1h": 3600 / SCALE, "6h": 21600 / SCALE, "24h": 86400 / SCALE, "7d": 604800 / SCALE}
    checks = []
    for kind, name in enumerate(names):
        for series in watcher.samples(f"kpi:{name}:sum", world.started, until):
            labels = series["metric"]
            persona, window = labels["persona"], labels["window"]
            index = kind + BOUNDS.index(labels["le"]) if "le" in labels else kind
            log = world.events.get((persona, labels["config_version"]))
            times = sorted(log[index]) if log else []
            for at, value in series["values"]:
                since = at - lengths[window]
                if at < world.started or not clean(persona, at, since):
                    continue
                expired = persona == "new version" and at > world.started + EXPIRY_SECOND
                checks.append(
                    _Check(
                        EXPIRED if expired else persona,
                        window,
                        (*(str(labels[label]) for label in sorted(labels)), str(int(at))),
                        float(value),
                        bisect_right(times, at) - bisect_right(times, since),
                    )
                )
    return checks


def _tallied(watcher: str, checks: list[_Check]) -> list[Result]:
    tally: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for check in checks:
        entry = tally[check.scenario, check.window]
        entry[0] += 1
        entry[1] += check.value == check.truth
        entry[2] = max(entry[2], abs(check.value - check.truth))
    return [
        Result(scenario, window, watcher, int(n), int(exact), worst)
        for (scenario, window), (n, exact, worst) in sorted(tally.items())
    ]


def _side_by_side(one: list[_Check], other: list[_Check]) -> list[Result]:
    """What two watchers say of the same series, window and second, as if one of them were the truth."""
    said = {check.where: check.value for check in one}
    pairs = [
        _Check(SIDE_BY_SIDE, check.window, check.where, check.value, int(said[check.where]))
        for check in other
        if check.where in said
    ]
    return _tallied("both", pairs)


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in run(Path(sys.argv[1]), Path(temporary), float(sys.argv[2])):
            print(row)
    os.sync()
