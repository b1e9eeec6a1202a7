"""What standard output and standard error cannot take decides nothing: commands as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.config_rollback.running import CONFIG, Service
from tests.config_rollback.test_cli import RealTime, document, stack

__all__ = ["document", "stack"]

FOX = "🦊"


@pytest.fixture
def clock() -> RealTime:
    return RealTime()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def foxy(service: Service) -> Service:
    """A persona whose name and prompt hold what ASCII lacks, on its second version."""
    service.publish(FOX, note=FOX, system_prompt=f"You are a {FOX}.")
    service.publish(FOX, system_prompt=f"You are a wild {FOX}.")
    return service


def driftback(
    *arguments: str, shell: str = '"$@"', stdin: str = "", encoding: str = "ascii"
) -> subprocess.CompletedProcess[bytes]:
    """Runs `driftback` in a shell, which may redirect "$@"; its output has the encoding."""
    command = [sys.executable, "-c", "from driftback_server.cli import main; main()", *arguments]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell, "bash", *command],
        input=stdin.encode(),
        capture_output=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )


@pytest.mark.parametrize("options", [(), ("--yes",), ("--yes", "--json")], ids=str)
def test_a_terminal_without_emoji_gets_the_rollback_all_the_same(
    foxy: Service, stack: Path, options: tuple[str, ...]
) -> None:
    result = driftback("persona", "rollback", FOX, *options, stdin="y\n")
    assert (result.returncode, foxy.active_version(FOX)) == (0, 1), result.stderr
    if "--json" in options:
        assert json.loads(result.stdout)["persona"] == FOX
    else:
        assert b"Version 1 of \\U0001f98a is active again" in result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_is_read_by_programs_is_exact_in_every_encoding(
    foxy: Service, stack: Path, tmp_path: Path, encoding: str
) -> None:
    shown = driftback("persona", "show", FOX, "--version", "1", encoding=encoding).stdout
    config = CONFIG | {"system_prompt": f"You are a {FOX}."}
    assert yaml.safe_load(shown.decode()) == {"persona": FOX, "note": FOX, "config": config}
    listed = driftback("persona", "list", "--json", encoding=encoding).stdout
    assert json.loads(listed.decode(encoding))[0]["persona"] == FOX
    (tmp_path / "export").write_bytes(driftback("audit", "export", encoding=encoding).stdout)
    verified = driftback("audit", "verify", "--file", str(tmp_path / "export"))
    assert verified.stdout.startswith(b"2 rows, all intact."), verified.stderr


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ('"$@" > /dev/full', b"driftback: [Errno 28] No space left on device\n"),
        ('"$@" 2>&1 > /dev/full', b""),
        ('"$@" > /dev/full 2> /dev/full', b""),
        ('"$@" | true', b""),
        ('"$@" >&-', b""),
        ('"$@" >&- 2>&-', b""),
    ],
)
def test_a_rollback_whose_output_is_lost_is_done_and_ends_with_0(
    foxy: Service, stack: Path, shell: str, said: bytes
) -> None:
    result = driftback("persona", "rollback", FOX, "--yes", shell=shell)
    assert (result.returncode, result.stderr) == (0, said)
    assert foxy.active_version(FOX) == 1
    assert len(foxy.audit()) == 3


def test_results_that_are_lost_are_a_failure(foxy: Service, stack: Path) -> None:
    for command in (("persona", "list"), ("audit", "export"), ("token", "mint")):
        result = driftback(*command, shell='"$@" > /dev/full')
        assert (result.returncode, result.stderr) == (1, b"driftback: [Errno 28] No space left on device\n")


def test_a_reader_that_has_enough_is_told_nothing(foxy: Service, stack: Path) -> None:
    result = driftback("audit", "export", shell='"$@" | true')
    assert result.stderr == b""


def test_a_backup_whose_message_is_lost_is_made(stack: Path, tmp_path: Path) -> None:
    url = ("--database-url", f"sqlite:///{tmp_path / 'a.db'}")
    assert driftback("db", "upgrade", *url, shell='"$@" > /dev/full').returncode == 0
    assert driftback("db", "backup", str(tmp_path / "b.db"), *url, shell='"$@" > /dev/full').returncode == 0
    assert (tmp_path / "b.db").is_file()


def test_a_publication_on_a_terminal_without_emoji(
    service: Service, stack: Path, document: Callable[..., str]
) -> None:
    assert driftback("persona", "publish", document(FOX, system_prompt=FOX), stdin="y\n").returncode == 0
    assert service.active_version(FOX) == 1
