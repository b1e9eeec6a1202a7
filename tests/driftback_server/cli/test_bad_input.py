"""Commands with input that cannot be: a line names what is wrong and what to do, and it is no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from driftback_server import cli

SERVICE = ("--url", "http://127.0.0.1:1", "--token", "t")
EXPORTER = ("--exporter", "http://127.0.0.1:1", "--token", "t" * 16, "--journey", "chat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one of each kind of wrong file."""
    for name in os.environ:
        if name.startswith(("DRIFTBACK_", "CONFIG_ROLLBACK_", "EXPORTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "deep").write_text("[" * 3000 + "]" * 3000)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("persona", "publish", "absent"), "cannot read absent: No such file or directory"),
        (("persona", "publish", "folder"), "cannot read folder: Is a directory"),
        (("persona", "publish", "empty"), "empty: must contain `persona`, `config` and, optionally, `note`"),
        (("persona", "publish", "binary"), "binary: the file is not UTF-8"),
        (("persona", "publish", "deep"), "deep: it is nested too deeply"),
        (("persona", "list", "--state-dir", "empty"), "'empty' is a file"),
        (
            ("persona", "list", "--url", "ftp://x"),
            "--url, DRIFTBACK_URL: ftp://x is not a URL such as http://",
        ),
        (("persona", "list", "--url", "http://"), "--url, DRIFTBACK_URL: http:// is not a URL such as"),
        (
            ("persona", "list", "--url", "http://[::1"),
            "--url, DRIFTBACK_URL: http://[::1 is not a URL such as",
        ),
        (("persona", "list", "--url", "http://a:99999"), "--url, DRIFTBACK_URL: http://a:99999 is not a URL"),
        (("audit", "verify", "--file", "absent"), "cannot read absent: No such file or directory"),
        (("audit", "verify", "--file", "empty"), "empty: the file is empty: there are no rows to verify"),
        (("audit", "verify", "--file", "folder"), "'folder' is a directory"),
        (("audit", "verify", "--file", "deep"), "deep: line 1: recursion limit exceeded"),
        (("audit", "export", "absent/x", *SERVICE), "cannot write absent/x: No such file or directory"),
        (("db", "grant", "--application", "x"), "Only PostgreSQL has roles: give --database-url."),
        (("db", "upgrade", "--database-url", "sqlite:///empty/x"), "cannot create the folder empty: "),
        (("db", "upgrade", "--state-dir", "empty"), "'empty' is a file"),
        (("db", "backup", "empty"), "empty exists already: name another file."),
        (("token", "mint", "--state-dir", "absent"), "--state-dir: cannot read absent/secrets/jwt_secret: "),
        (("replay", "absent", *EXPORTER), "cannot read absent: No such file or directory"),
        (("replay", "folder", *EXPORTER), "cannot read folder: Is a directory"),
        (("replay", "binary", *EXPORTER), "cannot read binary: it is not UTF-8"),
        (("up", "--state-dir", "empty"), "'empty' is a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_told_in_a_line(command: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(cli._app, list(command))
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert said in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        ("CONFIG_ROLLBACK_DATABASE_URL_FILE", "absent", ("db", "upgrade")),
        ("CONFIG_ROLLBACK_DATABASE_URL_FILE", "folder", ("db", "upgrade")),
        ("CONFIG_ROLLBACK_DATABASE_URL_FILE", "binary", ("db", "upgrade")),
        ("CONFIG_ROLLBACK_JWT_SECRET_FILE", "absent", ("token", "mint")),
        ("CONFIG_ROLLBACK_JWT_SECRET_FILE", "folder", ("token", "mint")),
        ("CONFIG_ROLLBACK_JWT_SECRET_FILE", "binary", ("token", "mint")),
    ],
)
def test_a_file_that_a_variable_names_is_told_with_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(cli._app, list(command))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{variable}: cannot read {value}: ")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (
            ("persona", "list", *SERVICE),
            3,
            "http://127.0.0.1:1 cannot be reached: Connection refused. Check that config_",
        ),
        (
            ("audit", "verify", "--database-url", "sqlite:///absent"),
            1,
            "no database here. Name one with --database-url",
        ),
        (
            ("audit", "verify", "--database-url", "sqlite:///empty"),
            1,
            "`driftback db upgrade` creates its tables",
        ),
        (("audit", "verify", "--database-url", "sqlite:///deep"), 1, "deep: file is not a database"),
        (("db", "upgrade", "--database-url", "sqlite:///deep"), 1, "deep: file is not a database\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_told_with_what_helps(command: tuple[str, ...], status: int, said: str) -> None:
    result = CliRunner().invoke(cli._app, list(command))
    assert result.exit_code == status
    assert said in result.stderr


def test_without_a_home_folder_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    script = (
        "import pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"  # a user id without a name
        "from driftback_server.cli import main\n"
        "sys.argv = ['driftback', 'persona', 'list']\n"
        "main()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "driftback: no home folder is known: give --state-dir, or set HOME or DRIFTBACK_STATE_DIR\n"
    )
