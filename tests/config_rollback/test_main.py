"""The service as a process: settings, log lines, and an end that waits for nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from config_rollback.auth.tokens import mint_access_token, mint_login_link
from tests.config_rollback.running import CONFIG, SECRET, SERVICE_TOKEN
from tests.support.stacks import answers, free_port


class Process:
    """`python -m config_rollback` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CONFIG_ROLLBACK_")},
            "CONFIG_ROLLBACK_PORT": str(port),
            "CONFIG_ROLLBACK_STATE_DIR": str(folder / "state"),
            "CONFIG_ROLLBACK_JWT_SECRET": SECRET,
            "CONFIG_ROLLBACK_SERVICE_TOKENS": SERVICE_TOKEN,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        """Returns when it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "config_rollback"], env=self.environment, stderr=log
            )
        deadline = time.monotonic() + 60
        while not answers(f"{self.url}/-/ready"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "not ready within 60 s"
            time.sleep(0.05)
        return self

    def end(self, number: signal.Signals) -> int:
        """Sends the signal; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def fail(self, changes: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """What a start came to that ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "config_rollback"],
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def records(self) -> list[dict[str, Any]]:
        """The log, a JSON object per line."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.wait()


def ops(subject: str = "ann") -> dict[str, str]:
    token = mint_access_token(SECRET, subject=subject, role="ops")
    return {"Authorization": f"Bearer {token}", "Idempotency-Key": uuid.uuid4().hex}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_long_polls_answer_and_ends_well(process: Process, number: signal.Signals) -> None:
    process.start()
    requests.post(
        f"{process.url}/v1/ops/personas/p/versions", json={"config": CONFIG}, headers=ops(), timeout=10
    ).raise_for_status()
    service = {"Authorization": f"Bearer {SERVICE_TOKEN}"}
    url = f"{process.url}/v1/personas/p/config"
    etag = requests.get(url, headers=service, timeout=10).headers["ETag"]
    answers: list[int] = []

    def poll() -> None:
        answer = requests.get(f"{url}?wait=60", headers=service | {"If-None-Match": etag}, timeout=70)
        answers.append(answer.status_code)

    pollers = [threading.Thread(target=poll) for _ in range(5)]
    for poller in pollers:
        poller.start()
    deadline = time.monotonic() + 30
    while "config_long_polls 5.0" not in requests.get(f"{process.url}/metrics", timeout=5).text:
        assert time.monotonic() < deadline
    assert process.end(number) == 0
    for poller in pollers:
        poller.join(30)
    assert answers == [304] * 5


def test_state_survives_a_kill(process: Process) -> None:
    process.start()
    for temperature in (0.1, 0.2):
        requests.post(
            f"{process.url}/v1/ops/personas/p/versions",
            json={"config": CONFIG | {"temperature": temperature}},
            headers=ops(),
            timeout=10,
        ).raise_for_status()
    process.end(signal.SIGKILL)
    process.start()
    rows = requests.get(f"{process.url}/v1/ops/personas", headers=ops(), timeout=10).json()["data"]
    assert rows[0]["active_version"] == 2


def test_log_lines_are_json_and_hold_the_chain_but_no_secret(process: Process) -> None:
    process.start()
    answer = requests.post(
        f"{process.url}/v1/ops/personas/p/versions", json={"config": CONFIG}, headers=ops(), timeout=10
    )
    link = mint_login_link(SECRET, subject="ann", external_url=process.url)
    requests.get(link, timeout=10)
    assert process.end(signal.SIGTERM) == 0
    records = process.records()
    head = next(record for record in records if record["event"] == "audit_appended")
    assert head["audit_id"] == 1
    assert head["audit_hash"].startswith("2:")
    assert head["request_id"] == answer.headers["X-Request-ID"]
    assert {"method": "GET", "path": "/login", "status": 200}.items() <= next(
        record for record in records if record.get("path") == "/login"
    ).items()
    text = process.log.read_text()
    for secret in (
        SECRET,
        SERVICE_TOKEN,
        link.partition("token=")[2],
        answer.request.headers["Authorization"],
    ):
        assert str(secret) not in text


def refused(process: Process) -> str:
    """What the process says when it ends at once, because it cannot be run so."""
    run = subprocess.run(
        [sys.executable, "-m", "config_rollback"],
        env=process.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    return run.stderr


def test_a_schema_of_configurations_that_is_none_ends_the_process(process: Process, tmp_path: Path) -> None:
    process.environment["CONFIG_ROLLBACK_CONFIG_SCHEMA_FILE"] = str(tmp_path)
    assert refused(process) == (
        f"config_rollback: CONFIG_ROLLBACK_CONFIG_SCHEMA_FILE: cannot read {tmp_path}: Is a directory\n"
    )


def test_unusable_settings_end_the_process_with_their_names(process: Process) -> None:
    del process.environment["CONFIG_ROLLBACK_JWT_SECRET"]
    process.environment["CONFIG_ROLLBACK_PROT"] = "1"
    assert refused(process) == (
        "config_rollback: CONFIG_ROLLBACK_JWT_SECRET: must have at least 32 bytes; "
        "CONFIG_ROLLBACK_PROT: no such setting\n"
    )


def test_what_comes_without_end_is_logged_only_when_refused(process: Process) -> None:
    process.start()
    requests.post(
        f"{process.url}/v1/ops/personas/p/versions", json={"config": CONFIG}, headers=ops(), timeout=10
    ).raise_for_status()
    url = f"{process.url}/v1/personas/p/config"
    fetched = requests.get(url, headers={"Authorization": f"Bearer {SERVICE_TOKEN}"}, timeout=10)
    refused_call = requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=10)
    assert (fetched.status_code, refused_call.status_code) == (200, 401)
    quiet = ("/metrics", "/-/healthy", "/-/ready", "/v1/personas/p/config")
    for path in quiet[:3]:
        requests.get(process.url + path, timeout=10).raise_for_status()
    assert process.end(signal.SIGTERM) == 0
    logged = [record for record in process.records() if record.get("path") in quiet]
    assert [(record["status"], record["request_id"]) for record in logged] == [
        (401, refused_call.headers["X-Request-ID"])
    ]


def test_a_state_folder_that_cannot_be_made_is_named(process: Process, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = process.fail({"CONFIG_ROLLBACK_STATE_DIR": str(tmp_path / "file" / "state")})
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "config_rollback: CONFIG_ROLLBACK_STATE_DIR or CONFIG_ROLLBACK_DATABASE_URL"
    )
    assert str(tmp_path / "file") in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_start_without_its_database_says_what_the_database_said(process: Process) -> None:
    url = "postgresql://driftback_app@127.0.0.1:1/driftback"
    ended = process.fail({"CONFIG_ROLLBACK_DATABASE_URL": url})
    assert ended.returncode == 3
    (said,) = [
        record for record in map(json.loads, ended.stderr.splitlines()) if record["event"] == "storage_failed"
    ]
    assert "Connection refused" in said["cause"]


def test_all_addresses_are_those_of_both_kinds(process: Process) -> None:
    process.environment["CONFIG_ROLLBACK_HOST"] = "::"
    process.start()  # asks 127.0.0.1
    assert answers(process.url.replace("127.0.0.1", "[::1]") + "/-/healthy")
    assert process.end(signal.SIGTERM) == 0


def test_an_address_that_is_taken_is_named(process: Process) -> None:
    process.start()
    taken = process.fail({})
    assert taken.returncode == 2
    assert taken.stderr.startswith(
        "config_rollback: CONFIG_ROLLBACK_HOST, CONFIG_ROLLBACK_PORT: cannot listen on 127.0.0.1 port "
    )


def test_a_log_that_cannot_be_written_decides_nothing(process: Process) -> None:
    process.log = Path("/dev/full")
    process.environment["PYTHONIOENCODING"] = "ascii"
    process.start()
    persona = f"{process.url}/v1/ops/personas/%F0%9F%A6%8A"
    for number in (1, 2):
        body = {"config": CONFIG, "note": "🦊"}
        answer = requests.post(f"{persona}/versions", json=body, headers=ops("🦊"), timeout=30)
        assert (answer.status_code, answer.json()["data"]["version"]) == (201, number)
    answer = requests.post(f"{persona}/rollback", json={"expected_version": 2}, headers=ops(), timeout=30)
    assert answer.json()["data"]["to_version"] == 1
    assert process.end(signal.SIGTERM) == 0


BROKEN = """
import sys
from config_rollback.__main__ import Server, main

async def serve(*_):
    raise OSError("the listener is gone")

Server.serve = serve
sys.exit(main())
"""


def test_an_error_after_the_start_is_no_good_end(process: Process) -> None:
    command = [sys.executable, "-c", BROKEN]
    ended = subprocess.run(
        command, env=process.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, "stopped_by_an_error" in ended.stderr) == (1, True), ended.stderr
