"""Alertmanager and config_rollback as processes, with the committed routes, for links that lead somewhere."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
import yaml

from config_rollback.auth.tokens import mint_access_token
from driftback_server.stack.components import working_directory
from tests.grafana import model
from tests.rules.files import uncommented
from tests.support.stacks import answers, free_port

SECRET = "a secret of at least thirty-two bytes"
ALERTMANAGER_TOKEN = "an-alertmanager-token-for-tests"
_DEADLINE_SECONDS = 300


class Rollback:
    """A running config_rollback, its API as an operator calls it."""

    def __init__(self, url: str, state: Path) -> None:
        self.url = url
        self.state = state

    def publish(self, persona: str, note: str) -> None:
        """A new version of the persona, which becomes active."""
        config = {
            "model": "swift-1",
            "system_prompt": f"You help. {note}",
            "allowed_topics": ["orders"],
            "temperature": 0.3,
            "max_output_tokens": 400,
            "timeout_ms": 8000,
        }
        answer = requests.post(
            f"{self.url}/v1/ops/personas/{quote(persona, safe='')}/versions",
            json={"config": config, "note": note},
            headers=self._headers(),
            timeout=30,
        )
        assert answer.status_code == 201, answer.text

    def _headers(self) -> dict[str, str]:
        token = mint_access_token(SECRET, subject="ann", role="ops", lifetime_seconds=600, now=time.time())
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": uuid.uuid4().hex}


@contextmanager
def rollback(state: Path) -> Iterator[Rollback]:
    """config_rollback on SQLite in the folder `state`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "PORT": str(port),
        "STATE_DIR": str(state),
        "EXTERNAL_URL": url,
        "JWT_SECRET": SECRET,
        "SERVICE_TOKENS": "a-service-token-for-tests",
        "ALERTMANAGER_TOKENS": ALERTMANAGER_TOKEN,
    }
    environment = os.environ | {f"CONFIG_ROLLBACK_{name}": value for name, value in settings.items()}
    with _process(
        [sys.executable, "-m", "config_rollback"], state / "log", f"{url}/-/ready", env=environment
    ):
        yield Rollback(url, state)


@contextmanager
def alertmanager(
    program: Path,
    folder: Path,
    rollback_url: str,
    *,
    slack_url: str | None = None,
    group_wait: str = "1s",
    group_interval: str = "1s",
) -> Iterator[str]:
    """Host and port of an Alertmanager that tells config_rollback, and whatever stands in for Slack."""
    committed = model.ROOT / "prometheus"
    config = yaml.safe_load(uncommented(committed / "alertmanager.yml"))
    (folder / "token").write_text(ALERTMANAGER_TOKEN)
    config["global"] = {} if slack_url is None else {"slack_api_url": slack_url}
    config["templates"] = [str(committed / pattern) for pattern in config["templates"]]
    left_out = {"email"} if slack_url else {"email", "slack"}
    for routes in (config["route"]["routes"], config["receivers"]):
        routes[:] = [
            entry for entry in routes if {entry.get("receiver"), entry.get("name")}.isdisjoint(left_out)
        ]
    config["route"] |= {"group_wait": group_wait, "group_interval": group_interval}
    for receiver in config["receivers"]:
        for webhook in receiver.get("webhook_configs", []):
            webhook["url"] = f"{rollback_url}/v1/alerts"
            webhook["http_config"]["authorization"]["credentials_file"] = str(folder / "token")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(program),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    ready = f"http://{address}/-/ready"
    with _process(command, folder / "log", ready, cwd=working_directory(program)):
        yield address


@contextmanager
def _process(command: list[str], log: Path, ready: str, **options: Any) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not answers(ready):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=_DEADLINE_SECONDS)
