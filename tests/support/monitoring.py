"""Prometheus and Alertmanager with the committed configuration, rules and routes, at a fast clock."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from driftback_server.stack.components import ensure, working_directory
from tests.support.processes import DEADLINE_SECONDS, process
from tests.support.stacks import ROOT, answers, free_port

Labels = tuple[tuple[str, str], ...]
CONFIGURATION = ROOT / "prometheus"
ALERTMANAGER_TOKEN = "an-alertmanager-token-for-tests"


@dataclass(frozen=True)
class Prometheus:
    """Queries a running Prometheus."""

    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Fails with Prometheus' own words if it refuses the question."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60).json()
        assert answer["status"] == "success", f"{answer.get('error')}\n{parameters}"
        return answer["data"]

    def samples(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Samples of an instant query, now or at a Unix time."""
        time_of_it = {} if at is None else {"time": str(at)}
        found: list[dict[str, Any]] = self.get("query", query=expression, **time_of_it)["result"]
        return found

    def query(self, expression: str) -> dict[Labels, float]:
        """Values by their labels, without the metric's name."""
        return {
            tuple(sorted((k, v) for k, v in sample["metric"].items() if k != "__name__")): float(
                sample["value"][1]
            )
            for sample in self.samples(expression)
        }

    def value(self, expression: str) -> float | None:
        """The value of the only sample. None if there is no sample."""
        values = list(self.query(expression).values())
        assert len(values) < 2, expression
        return values[0] if values else None

    def wait_for(self, expression: str, value: float) -> None:
        """Waits until the expression has this value. Fails if the value changes again within two seconds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := self.value(expression)) != value:
            assert time.monotonic() < deadline, f"{expression}: {found}, not {value}"
            time.sleep(0.1)
        settled = time.monotonic() + 2
        while time.monotonic() < settled:
            assert self.value(expression) == value
            time.sleep(0.1)


@contextmanager
def prometheus(
    folder: Path,
    targets: Mapping[str, str],
    *options: str,
    alertmanager: str = "",
    driftback_url: str = "",
    replica: str = "",
    rule_files: Sequence[Path] = (),
    address: str = "127.0.0.1:0",
) -> Iterator[Prometheus]:
    """Scrapes `targets` (an address by job) and evaluates the committed rules, both every second.

    `rule_files` come beside the committed ones. `driftback_url` takes the place of the committed one. With
    `replica` it is one of several, as docs/deployment.md has it.
    """
    config = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    labels, (drop,) = config["global"]["external_labels"], config["alerting"]["alert_relabel_configs"]
    if driftback_url:
        labels["driftback_url"] = driftback_url
    if replica:
        labels["prometheus_replica"] = replica
        drop["regex"] += "|prometheus_replica"
    config["rule_files"] = [str(path) for path in (*rule_files, ROOT / "rules" / "*.yml")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}] * bool(
        alertmanager
    )
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
    ]
    folder.mkdir(exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    log = folder / "prometheus.log"
    command = [
        ensure(["prometheus"])["prometheus"],
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        *options,
    ]
    with process(command, log, lambda: "ready to receive web requests" in log.read_text()) as started:
        listening = re.search(r'msg="Listening on" (?:component=\S+ )?address=(\S+)', log.read_text())
        assert listening, log.read_text()
        yield Prometheus(f"http://{listening[1]}", started)


def uncommented(path: Path) -> str:
    """A configuration with its commented settings switched on; prose has one space after the #."""
    return re.sub(r"(?m)^(\s*)#(?! \S)", r"\1", path.read_text(encoding="utf-8"))


@contextmanager
def alertmanager(
    folder: Path,
    webhook: str,
    *,
    slack_url: str | None = None,
    group_wait: str = "1s",
    group_interval: str = "1s",
    program: Path | None = None,
) -> Iterator[str]:
    """Host and port of an Alertmanager with the committed routes.

    It notifies config_rollback at the URL `webhook` and, if `slack_url` is given, Slack. `program` is
    another one than the distribution's.
    """
    config = yaml.safe_load(uncommented(CONFIGURATION / "alertmanager.yml"))
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(ALERTMANAGER_TOKEN)
    config["global"] = {} if slack_url is None else {"slack_api_url": slack_url}
    config["templates"] = [str(CONFIGURATION / pattern) for pattern in config["templates"]]
    left_out = {"email"} if slack_url else {"email", "slack"}
    for routes in (config["route"]["routes"], config["receivers"]):
        routes[:] = [
            entry for entry in routes if {entry.get("receiver"), entry.get("name")}.isdisjoint(left_out)
        ]
    config["route"] |= {"group_wait": group_wait, "group_interval": group_interval}
    for receiver in config["receivers"]:
        for hook in receiver.get("webhook_configs", []):
            hook["url"] = f"{webhook}/v1/alerts"
            hook["http_config"]["authorization"]["credentials_file"] = str(folder / "token")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    program = program or ensure(["alertmanager"])["alertmanager"]
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    ready = f"http://{address}/-/ready"
    with process(command, folder / "log", lambda: answers(ready), cwd=working_directory(program)):
        yield address
