"""`python -m exporter` as an operator sees it: log lines, exit codes, hostile conditions."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.exporter.running import TOKEN, Process, series, wait_for


def test_the_log_is_one_json_object_per_line_with_stable_events(launch: Callable[..., Process]) -> None:
    exporter = launch()
    exporter.end()
    assert [line["event"] for line in exporter.log] == [
        "journal_recovered",
        "exporter_started",
        "exporter_listening",
        "exporter_stopped",
    ]
    assert all({"event", "level", "logger", "timestamp"} <= line.keys() for line in exporter.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(launch: Callable[..., Process], number: signal.Signals) -> None:
    assert launch().end(number) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_journal_is_read_ends_it_with_0(state_dir: Path, number: signal.Signals) -> None:
    state_dir.mkdir()
    os.mkfifo(state_dir / "journal")  # reading it takes until somebody writes
    environment = {
        "EXPORTER_STATE_DIR": str(state_dir),
        "EXPORTER_PORT": "0",
        "EXPORTER_INGEST_TOKENS": TOKEN,
    }
    with subprocess.Popen([sys.executable, "-m", "exporter"], env={**os.environ, **environment}) as process:
        try:
            writer = wait_for_reader(state_dir / "journal")
            process.send_signal(number)
            os.close(writer)  # for it may come just before the read, which then notices nothing until its end
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def wait_for_reader(pipe: Path) -> int:
    """Wait until somebody reads the named pipe; its other end."""
    ends: list[int] = []

    def is_read() -> bool:
        try:
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    wait_for(is_read)
    return ends[0]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"EXPORTER_PORT": "x"}, "EXPORTER_PORT: "),
        ({"EXPORTER_INGEST_TOKENS": "short"}, "EXPORTER_INGEST_TOKENS: "),
        ({"EXPORTER_POLICY_FILE": "/nowhere"}, "EXPORTER_POLICY_FILE: "),
        ({"EXPORTER_STATE_DIR": "/proc/nowhere"}, "Cannot use the state folder"),
    ],
    ids=["a bad port", "a short token", "no policy file", "no state folder"],
)
def test_it_says_in_one_line_why_it_cannot_start(
    launch: Callable[..., Process], environment: dict[str, str], reason: str
) -> None:
    exporter = launch(**environment)
    assert exporter.end() == 1
    (line,) = exporter.log
    assert line["event"] == "exporter_cannot_start"
    assert line["reason"].startswith(reason)


def test_a_policy_that_yaml_cannot_read_is_refused_in_one_line(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("reasons: [other, lost")
    exporter = launch(EXPORTER_POLICY_FILE=str(tmp_path / "policy.yaml"))
    assert exporter.end() == 1
    (line,) = exporter.log
    assert line["event"] == "exporter_cannot_start"


def test_a_taken_port_ends_it_with_1(launch: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        exporter = launch(EXPORTER_PORT=port)
        assert exporter.end() == 1
    (line,) = exporter.log
    assert line["event"] == "exporter_cannot_start"
    assert f"EXPORTER_PORT: cannot listen on 127.0.0.1 port {port}" in line["reason"]


def test_no_secret_reaches_log_or_metrics_and_no_forged_line_the_log(launch: Callable[..., Process]) -> None:
    exporter = launch()
    forged = 'x\r\n{"event": "forged"}'
    push: dict[str, Any] = {
        "client": forged,
        "epoch": 1,
        "seq": 1,
        "series": [series(persona=forged, messages=1)],
    }
    assert exporter.post("/v1/push", push).status_code == 200
    exporter.post("/v1/push", push, token="wrong-token-0123456789")
    scrape = exporter.scrape()
    exporter.end()
    text = json.dumps(exporter.log) + scrape
    assert TOKEN not in text
    assert "wrong-token" not in text
    assert exporter.event("forged") is None


def test_a_traceback_in_the_log_shows_no_values() -> None:
    program = f"""
import structlog
from exporter import logs

def fail(authorization):
    raise RuntimeError("a defect")

logs.configure()
try:
    fail("Bearer {TOKEN}")
except RuntimeError as error:
    structlog.get_logger("exporter.app").error("internal_error", exc_info=error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = ended.stderr.splitlines()
    (exception,) = json.loads(line)["exception"]
    assert [frame["name"] for frame in exception["frames"]] == ["<module>", "fail"]
    assert TOKEN not in line


def test_health_answers_beside_200_clients_that_say_nothing(launch: Callable[..., Process]) -> None:
    exporter = launch()
    host, port = exporter.url.removeprefix("http://").split(":")
    with ExitStack() as connections:
        for number in range(200):
            connection = connections.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(b"POST /v1/push HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"P")
        assert requests.get(exporter.url + "/-/healthy", timeout=10).status_code == 200


def test_a_taken_state_folder_is_not_touched(launch: Callable[..., Process], state_dir: Path) -> None:
    # An answered push is behind the record that each start writes.
    launch().push(series(messages=1))
    before = (state_dir / "journal").read_bytes()
    launch().end()
    assert (state_dir / "journal").read_bytes() == before


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "::1", "127.0.0.1"])
def test_it_listens_on_the_address_given_and_on_both_kinds_for_all(
    launch: Callable[..., Process], host: str
) -> None:
    exporter = launch(EXPORTER_HOST=host)
    listening = exporter.event("exporter_listening")
    assert listening is not None
    answering = []
    for address in ("127.0.0.1", "::1"):
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection((address, listening["port"]), 20),
        ):
            answering.append(address)
    expected = {"::": ["127.0.0.1", "::1"], "0.0.0.0": ["127.0.0.1"]}
    assert answering == expected.get(host, [host])


@pytest.mark.parametrize(
    ("program", "prefix", "page"),
    [
        ("exporter", "EXPORTER_", "docs/exporter.md"),
        ("config_rollback", "CONFIG_ROLLBACK_", "docs/reference.md"),
    ],
)
def test_a_service_says_what_it_is_and_refuses_arguments(program: str, prefix: str, page: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    told = run("--help")
    assert told.returncode == 0
    text = " ".join(told.stdout.split())
    assert f"Settings are environment variables that begin with {prefix}" in text
    assert page in text
    assert (Path(__file__).parents[2] / page).exists()
    assert run("--version").stdout == f"{version('driftback')}\n"
    refused = run("--port", "1")
    assert refused.returncode == 2
    assert "unrecognized arguments: --port 1" in refused.stderr
