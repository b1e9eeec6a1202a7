"""A command that is repeated, by a script or because its answer was lost, acts at most once."""

from __future__ import annotations

import http.server
import itertools
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.config_rollback.running import CONFIG, Service
from tests.config_rollback.test_cli import RealTime, document, run, stack

__all__ = ["document", "stack"]


@pytest.fixture
def clock() -> RealTime:
    return RealTime()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def bad(service: Service) -> Service:
    """A persona whose versions 2 and 3 are bad."""
    service.publish()
    service.publish(temperature=1)
    service.publish(temperature=2)
    return service


def test_a_rollback_that_is_repeated_goes_no_further_back(bad: Service, stack: Path) -> None:
    command = ("persona", "rollback", "concierge", "--yes")
    assert run(*command).exit_code == 0
    again = run(*command, "--json")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "ann rolled back from version 3 to 2 at " in again.stderr
    assert "Nothing was changed. If you mean to change version 2, add --from 2." in again.stderr
    assert bad.active_version() == 2
    assert run(*command, "--from", "3").exit_code == 1
    assert bad.active_version() == 2
    assert run(*command, "--from", "2").exit_code == 0
    assert bad.active_version() == 1


def test_whoever_is_asked_reads_what_was_done_last(bad: Service, stack: Path) -> None:
    bad.roll_back(expected_version=3)
    asked = run("persona", "rollback", "concierge", stdin="y\n")
    assert "rolled back from version 3 to 2 at" in asked.stderr
    assert bad.active_version() == 1


def test_a_rollback_after_an_undo_is_no_repetition(bad: Service, stack: Path) -> None:
    bad.roll_back(expected_version=3)
    bad.roll_back(expected_version=2, to_version=3)
    assert run("persona", "rollback", "concierge", "--yes").exit_code == 0
    assert bad.active_version() == 2


def test_a_publication_that_is_repeated_does_not_undo_the_rollback_of_it(
    service: Service, stack: Path, document: Callable[..., str]
) -> None:
    service.publish()
    command = ("persona", "publish", document(temperature=1), "--yes")
    assert run(*command).exit_code == 0
    assert "Nothing was published: version 2 has the same configuration." in run(*command).stdout
    service.roll_back(expected_version=2)
    again = run(*command)
    assert again.exit_code == 1
    assert "this file is version 2 again. Nothing was changed" in again.stderr
    assert service.active_version() == 1
    assert run("persona", "publish", document(temperature=2), "--yes").exit_code == 0, "another configuration"
    service.roll_back(expected_version=3)
    assert run(*command[:2], document(temperature=2), "--yes", "--from", "1").exit_code == 0
    assert service.active_version() == 4


def test_an_acceptance_that_is_repeated_does_not_begin_anew(service: Service, stack: Path) -> None:
    service.publish()
    command = ("persona", "accept", "concierge", "--yes")
    assert run(*command).exit_code == 0
    again = run(*command)
    assert again.exit_code == 1
    assert "ann accepted it at " in again.stderr
    assert len(service.audit()) == 2
    assert run(*command, "--from", "1").exit_code == 0
    service.publish(temperature=1)
    assert run(*command).exit_code == 0, "another version"
    assert len(service.audit()) == 5


UNDECIDED = {"code": "outcome_unknown", "message": "the database connection broke", "details": {}}
LOST: dict[str, tuple[int, bytes] | None] = {
    "the connection ends": None,
    "a proxy gives up": (504, b"<h1>Gateway Time-out</h1>"),
    "the database breaks off": (503, json.dumps({"error": UNDECIDED, "request_id": "r"}).encode()),
}


@contextmanager
def losing(service: Service, lost: tuple[int, bytes] | None) -> Iterator[str]:
    """A way to the service on which `lost` comes in place of the answer to every act."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = self.forwarded()
            self.answer(answer.status_code, answer.content)

        def do_POST(self) -> None:
            assert self.forwarded().ok
            if lost:
                self.answer(*lost)

        def forwarded(self) -> requests.Response:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            wanted = ("Authorization", "Content-Type", "Idempotency-Key")
            headers = {name: self.headers[name] for name in wanted if name in self.headers}
            return requests.request(
                self.command, service.url + self.path, data=body, headers=headers, timeout=30
            )

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("command", "asking", "lost"),
    [
        *itertools.product(["publish", "rollback", "accept"], [False, True], ["the connection ends"]),
        *itertools.product(["rollback"], [False], ["a proxy gives up", "the database breaks off"]),
    ],
)
def test_a_lost_answer_names_the_options_by_which_a_repetition_gets_it(
    bad: Service, stack: Path, document: Callable[..., str], command: str, asking: bool, lost: str
) -> None:
    argument = document(temperature=0.5) if command == "publish" else "concierge"
    given = ["persona", command, argument, *([] if asking else ["--yes"])]
    with losing(bad, LOST[lost]) as url:
        first = run(*given, "--url", url, stdin="y\n")
    assert first.exit_code == 3
    hint = re.search(r"acts at most once: (--from 3 .*--idempotency-key .*)$", first.stderr.strip())
    assert hint is not None, first.stderr
    rows = bad.audit()
    again = run(*given, *shlex.split(hint[1]), "--json", stdin="y\n")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["audit_id"] == rows[-1]["audit_id"] == 4
    assert bad.audit() == rows, "nothing was done twice"


@pytest.mark.parametrize("command", ["publish", "rollback", "accept"])
def test_a_key_of_ones_own_makes_the_command_one_act(
    bad: Service, stack: Path, document: Callable[..., str], command: str
) -> None:
    argument = document(temperature=0.5) if command == "publish" else "concierge"
    given = ["persona", command, argument, "--yes", "--json"]
    alone = run(*given, "--idempotency-key", "k")
    assert alone.exit_code == 2
    assert "--idempotency-key needs --from" in alone.stderr
    answers = [run(*given, "--from", "3", "--idempotency-key", "k") for _ in range(3)]
    assert [answer.exit_code for answer in answers] == [0, 0, 0]
    assert len({answer.stdout for answer in answers}) == 1
    assert len(bad.audit()) == 4


def test_the_first_version_is_published_from_none(stack: Path, document: Callable[..., str]) -> None:
    command = ("persona", "publish", document(), "--yes", "--from", "0")
    assert run(*command).exit_code == 0
    assert "config_changed_since_alert" in run(*command).stderr


def test_the_api_publishes_nothing_without_a_key(service: Service) -> None:
    path = "/v1/ops/personas/concierge/versions"
    answer = service.request("POST", path, json={"config": CONFIG}, headers={"Idempotency-Key": None})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "idempotency_key_missing")
    assert service.audit() == []
