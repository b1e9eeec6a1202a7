from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftback_server.stack import programs
from driftback_server.stack.errors import StackDiedError
from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import Ports
from driftback_server.stack.programs import Program
from driftback_server.stack.secrets import SecretFiles
from driftback_server.stack.supervisor import Supervisor
from tests.support.stacks import free_offset, processes_of, wait_for

# Answers 200 to everything on the port given, and writes its process id; what it prints goes to the log.
SERVER = """
import http.server, os, pathlib, sys
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "100% odd 'name'")
    layout.create()
    return layout


def _script(layout: Layout) -> Path:
    path = layout.root / "server.py"
    path.write_text(SERVER)
    return path


def _server(layout: Layout, ports: Ports) -> Program:
    command = [sys.executable, str(_script(layout)), str(ports.exporter), str(layout.root / "pid")]
    return Program("exporter", command, {"ODD": "100% 'odd'"}, "/", directory=layout.data)


@pytest.fixture
def supervised(layout: Layout) -> Iterator[Supervisor]:
    ports = Ports().shifted(free_offset())
    supervisor = Supervisor(layout, ports, [_server(layout, ports)])
    supervisor.start()
    yield supervisor
    supervisor.stop()
    assert processes_of(layout.root) == []


def test_a_process_that_dies_is_started_again(supervised: Supervisor, layout: Layout) -> None:
    said: list[str] = []
    supervised.wait_ready(30, said.append)
    assert said == ["exporter is up"]
    first = int((layout.root / "pid").read_text())
    os.kill(first, signal.SIGKILL)
    wait_for("new process", 20, lambda: int((layout.root / "pid").read_text() or 0) not in (0, first))
    supervised.wait_ready(30, said.append)
    supervised.require_alive()


def test_a_process_that_does_not_stay_up_is_named_with_its_last_words(layout: Layout) -> None:
    ports = Ports().shifted(free_offset())
    program = Program("exporter", [sys.executable, "-c", "raise SystemExit('no such setting')"], {}, "/")
    supervisor = Supervisor(layout, ports, [program])
    supervisor.start()
    try:
        with pytest.raises(StackDiedError, match=r"(?s)exporter does not stay up.*no such setting"):
            supervisor.wait_ready(60, lambda _: None)
    finally:
        supervisor.stop()
    assert processes_of(layout.root) == []


# What `driftback up` does, in a process that can be killed.
PARENT = """
import signal, sys
from pathlib import Path
from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import Ports
from driftback_server.stack.programs import Program
from driftback_server.stack.supervisor import Supervisor
layout = Layout(Path(sys.argv[1]))
program = Program("exporter", [sys.executable, *sys.argv[2:], str(layout.root / "pid")])
Supervisor(layout, Ports(), [program]).start()
signal.pause()
"""


def test_when_its_parent_is_killed_the_supervisor_ends_all(layout: Layout) -> None:
    port = Ports().shifted(free_offset()).exporter
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(layout.root), str(_script(layout)), str(port)]
    )
    try:
        pid_file = layout.root / "pid"
        wait_for("server", 30, lambda: pid_file.exists() and pid_file.read_text())
        assert len(processes_of(layout.root)) >= 2
    finally:
        parent.kill()
        parent.wait()
    wait_for("end of all", 30, lambda: processes_of(layout.root) == [])


def test_a_user_id_without_a_name_can_run_a_stack(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    ports = Ports().shifted(free_offset())
    supervisor = Supervisor(layout, ports, [_server(layout, ports)])
    supervisor.start()
    try:
        supervisor.wait_ready(30, lambda _: None)
    finally:
        supervisor.stop()


def test_what_is_exported_for_another_stack_reaches_neither_its_database_nor_its_secrets(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_ROLLBACK_DATABASE_URL", f"sqlite:///{tmp_path / 'production.db'}")
    for name in ("CONFIG_ROLLBACK_JWT_SECRET", "CONFIG_ROLLBACK_SERVICE_TOKENS", "EXPORTER_INGEST_TOKENS"):
        monkeypatch.setenv(name, "x" * 40)
    ports = Ports().shifted(free_offset())
    binaries = dict.fromkeys(("prometheus", "alertmanager"), Path("/usr/bin/none"))
    wanted = programs.core(layout, ports, SecretFiles.create(layout.secrets), binaries, False)[:2]
    for program in wanted:
        (layout.data / program.name).mkdir()
    supervisor = Supervisor(layout, ports, wanted)
    supervisor.start()
    try:
        supervisor.wait_ready(60, lambda _: None)
    finally:
        supervisor.stop()
    assert (layout.data / "config_rollback" / "config_rollback.db").is_file()
    assert not (tmp_path / "production.db").exists()


def test_the_examples_listen_on_loopback_whatever_the_shell_calls_its_host(layout: Layout) -> None:
    secret = SecretFiles.create(layout.secrets)
    chat, guidance, _ = programs.examples(layout, Ports(), secret, Path())
    assert chat.environment["HOST"] == guidance.environment["HOST"] == "127.0.0.1"
