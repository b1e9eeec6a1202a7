"""The commands that talk to the service: what they print, and how they end."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from requests_mock import ANY, Mocker
from rich.console import Console
from typer.testing import CliRunner, Result

from config_rollback.auth.claims import MAX_TEXT_LENGTH
from config_rollback.auth.tokens import TokenVerifier
from config_rollback.clock import utc_now
from driftback_server import cli
from driftback_server.cli import connection
from driftback_server.stack.layout import Layout
from tests.config_rollback.evidence.test_kpis import HEALTHY
from tests.config_rollback.running import CONFIG, SECRET, Clock, Service
from tests.support.stacks import ROOT


class RealTime(Clock):
    """The command line makes tokens of its own, by the real clock, and a busy machine takes its time."""

    def __call__(self) -> datetime:
        return utc_now()


@pytest.fixture
def clock() -> Clock:
    return RealTime()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DRIFTBACK_URL", "DRIFTBACK_TOKEN", "DRIFTBACK_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str, stdin: str | None = None) -> Result:
    """Runs `driftback` in this process."""
    return CliRunner().invoke(cli._app, list(arguments), input=stdin)


@pytest.fixture
def stack(service: Service, tmp_path: Path) -> Path:
    """The state folder of a stack of which only config_rollback runs."""
    layout = Layout(tmp_path / "xdg" / "driftback" / "default")
    layout.create()
    (layout.secrets / "jwt_secret").write_text(SECRET + "\n")
    layout.stack_file.write_text(
        json.dumps({"urls": {"config_rollback": service.url}, "state_dir": str(layout.root)})
    )
    return layout.root


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., str]:
    """Writes a file to publish."""

    def document(persona: str = "concierge", note: str = "a note", **changes: Any) -> str:
        path = tmp_path / "persona.yaml"
        path.write_text(yaml.safe_dump({"persona": persona, "note": note, "config": CONFIG | changes}))
        return str(path)

    return document


def test_publish_shows_a_diff_and_asks(service: Service, stack: Path, document: Callable[..., str]) -> None:
    service.publish()
    no = run("persona", "publish", document(allowed_topics=["orders", "billing"]), stdin="n\n")
    assert no.exit_code == 1
    assert "allowed_topics\n  orders, [-returns-], {+billing+}\n" in no.stdout
    assert "Publish this for concierge, after version 1?" in no.stderr
    assert service.active_version() == 1
    yes = run("persona", "publish", document(allowed_topics=["orders", "billing"]), stdin="y\n")
    assert yes.exit_code == 0
    assert "Version 2 of concierge is active now (audit row 2)." in yes.stdout
    assert service.active_version() == 2


def test_publish_for_scripts(service: Service, stack: Path, document: Callable[..., str]) -> None:
    first = run("persona", "publish", document("a/b [x]"), "--yes", "--json")
    assert first.exit_code == 0
    data = json.loads(first.stdout)
    assert (data["published"], data["persona"], data["version"]) == (True, "a/b [x]", 1)
    again = run("persona", "publish", document("a/b [x]"), "--yes", "--json")
    assert json.loads(again.stdout) == {"published": False, "version": 1}


def test_what_was_published_since_the_preview_is_not_overwritten(
    service: Service, stack: Path, document: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.publish()

    def meanwhile(*_: Any) -> None:
        service.publish(temperature=1)

    monkeypatch.setattr("driftback_server.cli.acts._confirm", meanwhile)
    result = run("persona", "publish", document(temperature=2))
    assert result.exit_code == 1
    assert "config_changed_since_alert" in result.stderr
    assert service.active_version() == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("persona: [", "line 1, column 11: expected the node content"),
        ("- a", "must contain `persona`, `config`"),
        ("persona: x", "config: Field required"),
        ("persona: x\nconfig: {}\nextra: 1", "extra: Extra inputs"),
    ],
)
def test_a_file_that_cannot_be_published_is_wrong_usage(
    stack: Path, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    result = run("persona", "publish", str(file), "--yes")
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_wrong_configuration_is_refused_by_field(stack: Path, document: Callable[..., str]) -> None:
    result = run("persona", "publish", document(temperature=3), "--yes")
    assert result.exit_code == 1
    assert "invalid_request" in result.stderr
    assert "config.temperature" in result.stderr


def test_list_show_history_and_diff(service: Service, stack: Path) -> None:
    service.publish(note="first")
    service.publish(note="second", temperature=1)
    listed = run("persona", "list")
    assert "concierge" in listed.stdout
    assert json.loads(run("persona", "list", "--json").stdout)[0]["rollback_to"] == 1
    shown = run("persona", "show", "concierge", "--version", "1")
    assert yaml.safe_load(shown.stdout) == {"persona": "concierge", "note": "first", "config": CONFIG}
    assert json.loads(run("persona", "show", "concierge", "--json").stdout)["version"] == 2
    history = run("persona", "history", "concierge").stdout
    assert history.index("second") < history.index("first")
    assert "temperature\n  [-0.3-] -> {+1.0+}\n" in run("persona", "diff", "concierge", "1", "2").stdout
    assert run("persona", "show", "nobody").exit_code == 1
    assert "not_found" in run("persona", "history", "nobody").stderr


def test_rollback_shows_a_diff_and_asks(service: Service, stack: Path) -> None:
    service.publish()
    service.publish(temperature=1)
    no = run("persona", "rollback", "concierge", stdin="n\n")
    assert no.exit_code == 1
    assert "temperature\n  [-1.0-] -> {+0.3+}\n" in no.stdout
    assert service.active_version() == 2
    yes = run("persona", "rollback", "concierge", "--reason", "too wild", stdin="y\n")
    assert yes.exit_code == 0
    assert "Version 1 of concierge is active again (audit row 3)." in yes.stdout
    row = service.audit()[-1]
    assert (row["reason"], row["to_version"]) == ("too wild", 1)
    nothing = run("persona", "rollback", "concierge", "--from", "1", "--yes")
    assert nothing.exit_code == 1
    assert "nothing_to_rollback" in nothing.stderr
    undo = run("persona", "rollback", "concierge", "--to", "2", "--yes", "--json")
    assert json.loads(undo.stdout)["to_version"] == 2


def test_the_user_of_this_machine_is_the_actor(
    service: Service, stack: Path, document: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    assert run("persona", "publish", document(), "--yes").exit_code == 0
    assert service.audit()[-1]["actor"] == "grace"


@pytest.mark.parametrize("reason", [r"see \[/etc]", "[red]x[/red]", "[/]", "\\"])
def test_audit_list_shows_a_reason_to_the_letter(service: Service, stack: Path, reason: str) -> None:
    service.publish()
    service.publish(temperature=1)
    assert service.roll_back(expected_version=2, reason=reason).status_code == 200
    listed = run("audit", "list")
    assert listed.exit_code == 0, listed.exception
    assert listed.stdout.splitlines()[1].rstrip().endswith(f"succeeded  {reason}")


def test_audit_list_and_verify(service: Service, stack: Path) -> None:
    service.publish(note="[bold]first")
    service.roll_back(expected_version=7)
    listed = run("audit", "list")
    assert listed.exit_code == 0
    assert "[bold]first" in listed.stdout
    assert "driftback" in listed.stdout, "whom the service knew the actor by"
    assert "config_changed_since_alert" in listed.stdout
    assert len(json.loads(run("audit", "list", "--json", "--limit", "1").stdout)) == 1
    assert "2 rows, all intact. Head 2:2:" in run("audit", "verify").stdout
    service.database.disable_triggers()
    service.database.execute("UPDATE audit SET actor = 'x' WHERE audit_id = 1")
    broken = run("audit", "verify")
    assert broken.exit_code == 1
    assert "The audit log is not intact at row 1: its content was changed." in broken.stderr
    assert json.loads(run("audit", "verify", "--json").stdout)["broken_at"] == 1


def test_token_mint_and_login_link(service: Service, stack: Path, clock: Clock) -> None:
    verifier = TokenVerifier(SECRET, utc_now)
    token = run("token", "mint", "--role", "support", "--subject", "bob", "--ttl", "30m").stdout.strip()
    identity = verifier.verify(token, "api")
    assert (identity.subject, identity.role) == ("bob", "support")
    assert 1700 < (identity.expires_at - utc_now()).total_seconds() <= 1800
    link = run("login-link", "--next", "/audit").stdout.strip()
    assert link.startswith(f"{service.url}/login?token=")
    assert link.endswith("&next=%2Faudit")
    assert run("token", "mint", "--ttl", "25h").exit_code == 2
    assert run("token", "mint", "--ttl", "soon").exit_code == 2


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verifier = TokenVerifier(SECRET, utc_now)
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET", SECRET)
    assert verifier.verify(run("token", "mint").stdout.strip(), "api").role == "ops"
    file = tmp_path / "secret"
    file.write_text(SECRET)
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET_FILE", str(file))
    assert run("token", "mint").exit_code == 2, "both are given"
    monkeypatch.delenv("CONFIG_ROLLBACK_JWT_SECRET")
    assert verifier.verify(run("token", "mint").stdout.strip(), "api").role == "ops"


def test_the_version_is_told() -> None:
    told = run("--version")
    assert (told.exit_code, told.stdout) == (0, f"{version('driftback')}\n")


def test_the_key_may_come_from_a_file_with_a_byte_order_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET_FILE", str(file))
    file.write_text(f"\ufeff{SECRET}\r\n")
    minted = run("token", "mint").stdout.strip()
    assert TokenVerifier(SECRET, utc_now).verify(minted, "api").role == "ops"
    file.write_text("two\nlines")
    refused = run("token", "mint")
    assert refused.exit_code == 2
    assert f"{file} has more than one line" in " ".join(refused.output.split())


def test_kpis_without_prometheus_are_refused(stack: Path) -> None:
    result = run("kpis")
    assert result.exit_code == 1
    assert "monitoring_unavailable" in result.stderr


def test_kpis_are_shown_as_a_table(start: Callable[..., Service], stack: Path, requests_mock: Mocker) -> None:
    watched = start(prometheus_url="http://prometheus:9090")
    requests_mock.register_uri(ANY, re.compile("^http://127.0.0.1:"), real_http=True)
    rows = [{"metric": {"kpi": name}, "value": [0, str(value)]} for name, value in HEALTHY.items()]
    for bound, count in (("1.1", "900"), ("1.4", "1000"), ("+Inf", "1000")):
        rows.append({"metric": {"kpi": "latency_bucket", "le": bound}, "value": [0, count]})
    requests_mock.post(
        "http://prometheus:9090/api/v1/query", json={"status": "success", "data": {"result": rows}}
    )
    result = run("kpis", "--window", "24h", "--persona", "concierge", "--url", watched.url)
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert lines == [
        ["KPI", "value", "95% interval", "window before", "counts", "data"],
        ["messages_total", "1,000", "500", "ok"],
        ["out_of_scope_rate", "5.00%", "3.69% to 6.74%", "2.00%", "40 of 800", "ok"],
        ["llm_error_rate", "1.00%", "0.54% to 1.83%", "0.20%", "10 of 1,000", "ok"],
        ["p95_latency_ms", "1,234 ms", "1,100 ms to 1,400 ms", "1,000 ms", "ok"],
        ["100.0% of the window was scraped."],
    ]


def test_without_a_stack_nothing_is_reached() -> None:
    result = run("persona", "list")
    assert result.exit_code == 3
    assert "no stack runs in" in result.stderr


def test_a_demo_that_runs_comes_before_a_stack_that_was_killed(stack: Path, tmp_path: Path) -> None:
    killed = {"urls": {"config_rollback": "http://127.0.0.1:1"}, "state_dir": str(stack)}
    runs = json.loads((stack / "stack.json").read_text())
    demo = Layout(tmp_path / "xdg" / "driftback" / "demo")
    demo.create()
    demo.stack_file.write_text(json.dumps(runs))
    (stack / "stack.json").write_text(json.dumps(killed))
    (stack / "lock").touch()
    assert run("persona", "list").exit_code == 3
    with demo.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run("persona", "list").exit_code == 0


def test_a_service_that_does_not_answer_is_unreachable() -> None:
    result = run("persona", "list", "--url", "http://127.0.0.1:1", "--token", "t")
    assert result.exit_code == 3
    assert "cannot be reached" in result.stderr


def test_a_wrong_token_is_refused(service: Service) -> None:
    result = run("persona", "list", "--url", service.url, "--token", "t")
    assert result.exit_code == 1
    assert "token_invalid" in result.stderr


def test_db_upgrade(tmp_path: Path) -> None:
    result = run("db", "upgrade", "--state-dir", str(tmp_path / "stack"))
    assert result.exit_code == 0
    path = tmp_path / "stack" / "data" / "config_rollback" / "config_rollback.db"
    assert path.is_file()
    assert f"{path} is up to date." in result.stdout
    broken = run("db", "upgrade", "--database-url", f"sqlite:///{tmp_path}")
    assert broken.exit_code == 1
    assert "unable to open database file" in broken.stderr


def test_db_commands_read_the_url_from_the_file_that_the_service_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, database = tmp_path / "url", tmp_path / "real.db"
    monkeypatch.setenv("CONFIG_ROLLBACK_DATABASE_URL_FILE", str(file))
    unreadable = run("db", "upgrade")
    assert unreadable.exit_code == 2
    assert f"CONFIG_ROLLBACK_DATABASE_URL_FILE: cannot read {file}" in unreadable.stderr
    file.write_text(f"sqlite:///{database}\n")
    assert f"{database} is up to date." in run("db", "upgrade").stdout
    assert run("db", "backup", str(tmp_path / "copy.db")).exit_code == 0
    assert "Only PostgreSQL has roles" in run("db", "grant", "--auditor", "a").stderr
    assert not (tmp_path / "xdg").exists()
    other = run("db", "upgrade", "--database-url", f"sqlite:///{tmp_path / 'other.db'}")
    assert "other.db is up to date." in other.stdout
    monkeypatch.setenv("CONFIG_ROLLBACK_DATABASE_URL", f"sqlite:///{database}")
    both = run("db", "upgrade")
    assert both.exit_code == 2
    assert "CONFIG_ROLLBACK_DATABASE_URL and CONFIG_ROLLBACK_DATABASE_URL_FILE are both set" in both.stderr


def test_accept_takes_what_is_active_for_normal(service: Service, stack: Path) -> None:
    service.publish()
    assert run("persona", "accept", "concierge", stdin="n\n").exit_code == 1
    yes = run("persona", "accept", "concierge", "--reason", "meant so", stdin="y\n")
    assert "Version 1 of concierge is the baseline now (audit row 2)." in yes.stdout
    row = service.audit()[-1]
    assert (row["action"], row["reason"]) == ("accept_baseline", "meant so")


@pytest.mark.parametrize("width", [20, 240])
def test_a_table_cuts_nothing_off(width: int) -> None:
    table = connection.table("persona", "status")
    table.add_row("x" * 100, "succeeded")
    shown = io.StringIO()
    Console(file=shown, width=width).print(table)
    assert shown.getvalue().count("x") == 100


def run_process(*arguments: str, stdout: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `driftback` as a process of its own, its output in the file `stdout`."""
    script = "from driftback_server.cli import main; main()"
    with Path(stdout).open("w") as file:
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | environment,
        )


@pytest.mark.parametrize("arguments", [("persona", "list"), ("persona", "list", "--json"), ("login-link",)])
def test_a_full_disk_is_told_in_one_line(service: Service, stack: Path, arguments: tuple[str, ...]) -> None:
    service.publish()
    result = run_process(*arguments, stdout="/dev/full")
    assert (result.returncode, result.stderr) == (1, "driftback: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("no_proxy", ["", "other.example"])
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    service: Service, stack: Path, tmp_path: Path, no_proxy: str
) -> None:
    service.publish()
    proxy = "http://127.0.0.1:1"
    out = str(tmp_path / "out")
    result = run_process("persona", "list", stdout=out, HTTP_PROXY=proxy, http_proxy=proxy, no_proxy=no_proxy)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_user_id_without_a_name_acts_by_its_number(
    service: Service, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    service.publish()
    monkeypatch.setattr("getpass.getuser", nameless)
    assert run("persona", "accept", "concierge", "--yes").exit_code == 0
    assert service.audit()[-1]["actor"] == f"uid {os.getuid()}"
    assert run("token", "mint").exit_code == run("login-link").exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--url", "localhost:9811", "--url, DRIFTBACK_URL: localhost:9811 is not a URL such as http://"),
        (
            "--token",
            "eyJhbG\u2026",
            "--token, DRIFTBACK_TOKEN: contains characters that cannot be in a token",
        ),
        ("--token", "a\nb", "--token, DRIFTBACK_TOKEN: contains characters that cannot be in a token"),
    ],
)
def test_an_unusable_url_or_token_is_named(option: str, value: str, message: str) -> None:
    options = {"--url": "http://127.0.0.1:1", "--token": "t"} | {option: value}
    result = run("persona", "list", *(word for pair in options.items() for word in pair))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_key_that_no_service_takes_signs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET", "short")
    result = run("token", "mint")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "CONFIG_ROLLBACK_JWT_SECRET: must have at least 32 bytes" in result.stderr
    monkeypatch.delenv("CONFIG_ROLLBACK_JWT_SECRET")
    (tmp_path / "key").write_bytes(b"\xff" * 40)
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET_FILE", str(tmp_path / "key"))
    assert "key: it is not UTF-8" in run("token", "mint").stderr


def test_a_login_link_beside_the_service_leads_where_browsers_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONFIG_ROLLBACK_EXTERNAL_URL", "https://rollback.example/")
    monkeypatch.setenv("CONFIG_ROLLBACK_JWT_SECRET", SECRET)
    result = run("login-link", "--subject", "ann")
    assert result.stdout.startswith("https://rollback.example/login?token=")
    wrong = run("login-link", "--next", "rollback/concierge")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "--next: the link does not lead to a page of this service" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must contain `persona`, `config`"),
        ("persona: p\nconfig: {key: !!binary aGk=}", "the tag tag:yaml.org,2002:binary is not known"),
        ("persona: p\nconfig: {temperature: .nan}", ".nan can be a number or text"),
        ("persona: p\nconfig: {temperature: 0300}", "0300 can be a number or text"),
        ("persona: p\nconfig: {key: a, key: b}", "line 2, column 18: the key 'key' occurs twice"),
        ("[" * 3000 + "]" * 3000, "it is nested too deeply"),
    ],
)
def test_what_yaml_has_and_json_lacks_is_refused_by_its_field(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "persona.yaml"
    file.write_text(text)
    result = run("persona", "publish", str(file), "--url", "http://127.0.0.1:1", "--token", "t", "--yes")
    assert result.exit_code == 2
    assert message in result.stderr


def test_in_a_pipe_a_row_is_one_line_and_a_prompt_is_not_broken(
    service: Service, stack: Path, document: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    prompt = "Answer in full sentences, " * 20 + "please."
    service.publish()
    run("persona", "publish", document(system_prompt=prompt, note="a\nnote"), "--yes")
    assert prompt in run("persona", "diff", "concierge", "1", "2").stdout
    assert len(run("persona", "history", "concierge").stdout.splitlines()) == 3
    run("persona", "rollback", "concierge", "--yes", "--reason", "first line\n" + "and more words " * 30)
    assert len(run("audit", "list").stdout.splitlines()) == 4


def test_a_question_that_nobody_can_answer_names_the_option(service: Service, stack: Path) -> None:
    service.publish()
    service.publish(temperature=1)
    result = run("persona", "rollback", "concierge", stdin="")
    assert result.exit_code == 1
    assert (
        "Nothing was changed, because nobody answered the question. Add --yes to act without it."
        in result.stderr
    )
    assert service.active_version() == 2


@pytest.mark.parametrize("url", ["nonsense", "mysql://ann:secret@host/name"])
@pytest.mark.parametrize(
    "command", [("db", "upgrade"), ("db", "grant", "--auditor", "a"), ("audit", "verify")]
)
def test_a_url_of_no_database_of_ours_is_named_and_not_shown(command: tuple[str, ...], url: str) -> None:
    result = run(*command, "--database-url", url)
    assert result.exit_code == 2
    assert "--database-url, CONFIG_ROLLBACK_DATABASE_URL: must be a URL such as" in result.stderr
    assert "secret" not in result.stderr


def test_verifying_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    result = run("audit", "verify", "--database-url", f"sqlite:///{tmp_path / 'typo.db'}")
    assert result.exit_code == 1
    assert "typo.db: there is no database here." in result.stderr
    assert not (tmp_path / "typo.db").exists()


def test_what_the_database_says_is_not_among_the_results(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    out = tmp_path / "out"
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    result = run_process("audit", "verify", "--json", "--database-url", url, stdout=str(out))
    assert (result.returncode, out.read_text()) == (1, "")
    assert "no such table" in result.stderr


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (("persona", "list"), "or give --url and --token"),
        (("persona", "list", "--url", "http://h"), "or give --token, or set CONFIG_ROLLBACK_JWT_SECRET_FILE"),
        (("token", "mint"), "or set CONFIG_ROLLBACK_JWT_SECRET_FILE to the file of the service's key"),
        (("login-link",), "or give --url"),
        (("login-link", "--url", "http://h"), "or set CONFIG_ROLLBACK_JWT_SECRET_FILE to the file"),
    ],
)
def test_without_a_stack_the_hint_is_one_that_the_command_takes(
    command: tuple[str, ...], instead: str
) -> None:
    result = run(*command)
    assert result.exit_code == 3
    assert f"start one with `driftback up`, {instead}" in result.stderr


def test_a_difference_shows_what_a_terminal_would_obey(
    service: Service, stack: Path, document: Callable[..., str]
) -> None:
    service.publish(system_prompt="Answer.\n\tKindly.")
    hidden = "\x1b[2K\r\x07\u202e"
    result = run("persona", "publish", document(system_prompt=f"Answer.\n\tKindly.{hidden}"), "--yes")
    assert "<U+001B>[2K<U+000D><U+0007><U+202E>" in result.stdout
    assert not any(character in result.stdout for character in "\x1b\r\x07\u202e")
    assert "Answer.\n" in result.stdout


def test_what_nobody_sees_is_shown_by_every_command(
    service: Service, stack: Path, document: Callable[..., str]
) -> None:
    service.publish(system_prompt="Help.")
    service.publish(system_prompt="Help.\U000e0041", note="👩\u200d🚀")
    service.roll_back(expected_version=2, reason="⚠\ufe0f")
    assert "<U+E0041>" in run("persona", "diff", "concierge", "1", "2").stdout
    shown = run("persona", "show", "concierge", "--version", "2").stdout
    assert 'note: "\\U0001F469\\u200D\\U0001F680"' in shown
    assert '"Help.\\U000E0041"' in shown
    assert "👩<U+200D>🚀" in run("persona", "history", "concierge").stdout
    assert "⚠<U+FE0F>" in run("audit", "list").stdout
    refused = run("persona", "publish", document("con\u200bcierge"), stdin="y\n")
    assert "Publish this for con<U+200B>cierge" in refused.stderr
    assert "invalid_request: a persona's name holds U+200B, which is invisible" in refused.stderr
    for command in (("persona", "show", "concierge", "--json"), ("audit", "list", "--json")):
        assert run(*command).stdout.isascii()


def test_what_is_shown_is_published_as_it_was(service: Service, stack: Path, tmp_path: Path) -> None:
    topics = ["no", "1:30", "1e3", "\u2028x", "a\u200bb"]
    service.publish(system_prompt="a\x85b", model="0300", allowed_topics=topics)
    file = tmp_path / "shown.yaml"
    file.write_text(run("persona", "show", "concierge").stdout, encoding="utf-8")
    again = run("persona", "publish", str(file), "--yes")
    assert again.stdout == "Nothing was published: version 1 has the same configuration.\n"


@pytest.mark.parametrize(
    "subject", ["", "a" * (MAX_TEXT_LENGTH + 1), "a\x1b[31m", "a\nb", "a\u200b", "a\u202e"]
)
@pytest.mark.parametrize("command", [("token", "mint"), ("login-link",)])
def test_a_subject_that_no_service_takes_is_refused(
    stack: Path, command: tuple[str, ...], subject: str
) -> None:
    result = run(*command, "--subject", subject)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"'--subject': must have 1 to {MAX_TEXT_LENGTH} characters" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3600, "3600 s behind the service's"), (-3600, "3600 s ahead of the service's"), (0, None)],
)
def test_a_refused_token_names_a_wrong_clock(requests_mock: Mocker, seconds: int, said: str | None) -> None:
    there = datetime.now(UTC) + timedelta(seconds=seconds)
    error = {"code": "token_expired", "message": "the token has expired", "details": {}}
    requests_mock.get(
        ANY,
        status_code=401,
        headers={"Date": format_datetime(there, usegmt=True)},
        json={"error": error, "request_id": "1"},
    )
    result = run("persona", "list", "--url", "http://h", "--token", "t")
    assert result.exit_code == 1
    assert ("clock" in result.stderr) == (said is not None)
    if said:
        number = re.search(r"is (\d+) s", result.stderr)
        assert number is not None
        assert abs(int(number[1]) - 3600) <= 60
        assert said.partition(" s ")[2] in result.stderr


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "text", ["<html>", "[]", '{"detail": "Not Found"}', '{"status": "error", "error": "x"}']
)
def test_the_answer_of_another_service_is_no_traceback(requests_mock: Mocker, status: int, text: str) -> None:
    requests_mock.get(ANY, status_code=status, text=text)
    result = run("persona", "list", "--url", "http://h", "--token", "t")
    assert result.exit_code == 3
    assert f"http://h answered {status}, but is not config_rollback" in result.stderr


@pytest.mark.parametrize("name", ["CONFIG_ROLLBACK_DATABASE_URL", "CONFIG_ROLLBACK_DATABASE_URL_FILE"])
def test_a_state_folder_that_is_given_comes_before_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    exported = tmp_path / "exported.db"
    (tmp_path / "url").write_text(f"sqlite:///{exported}")
    monkeypatch.setenv(name, str(tmp_path / "url") if name.endswith("FILE") else f"sqlite:///{exported}")
    result = run("db", "upgrade", "--state-dir", str(tmp_path / "stack"))
    assert f"{tmp_path / 'stack' / 'data'}" in result.stdout
    assert not exported.exists()
    url = f"sqlite:///{tmp_path / 'named.db'}"
    both = run("db", "upgrade", "--state-dir", str(tmp_path / "stack"), "--database-url", url)
    assert "named.db is up to date." in both.stdout


def test_a_stack_that_is_given_comes_before_a_service_that_is_exported(
    service: Service, stack: Path, document: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTBACK_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DRIFTBACK_TOKEN", "of another service")
    assert run("persona", "list").exit_code == 3
    published = run("persona", "publish", document(), "--yes", "--state-dir", str(stack))
    assert published.exit_code == 0
    assert service.active_version() == 1
    assert run("login-link", "--state-dir", str(stack)).stdout.startswith(service.url)
    elsewhere = run("persona", "list", "--state-dir", str(stack), "--url", "http://127.0.0.1:2")
    assert "http://127.0.0.1:2 cannot be reached" in elsewhere.stderr


NAMES = ["feature%2Flogin", "a?b=c", "a#b", "50% & more", "ä:@[b]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_name_is_that_file(tmp_path: Path, name: str) -> None:
    state, copy = tmp_path / name, tmp_path / "copies" / f"{name}.db"
    copy.parent.mkdir()
    upgraded = run("db", "upgrade", "--state-dir", str(state))
    file = state / "data" / "config_rollback" / "config_rollback.db"
    assert upgraded.stdout == f"{file} is up to date.\n"
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir() if path != copy.parent] == [name]
    assert run("db", "backup", str(copy), "--state-dir", str(state)).stdout.startswith(
        f"{copy}: 0 audit rows"
    )
    assert list(copy.parent.iterdir()) == [copy]


def test_the_package_may_be_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """Alembic reads the path of the migrations by configparser, to which a percent sign means something."""
    checkout = tmp_path / "feature%2Flogin"
    checkout.symlink_to(ROOT)
    result = run_process(
        "db",
        "upgrade",
        "--state-dir",
        str(tmp_path),
        stdout=os.devnull,
        PYTHONPATH=str(checkout),
        PYTHONSAFEPATH="1",
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_password_in_the_query_of_a_url_is_not_shown() -> None:
    url = "postgresql://ann:hush@127.0.0.1:1/x?connect_timeout=2&password=hush"
    result = run("db", "upgrade", "--database-url", url)
    assert result.exit_code == 1
    assert "postgresql+psycopg://ann:***@127.0.0.1:1/x: " in result.stderr
    assert "hush" not in result.stderr
