"""What commands share: how they find the service, how they authenticate, their options and exit codes.

Exit codes: 0 done; 1 refused or failed (the error code is printed); 2 wrong usage; 3 the service cannot be
reached, or the outcome is unknown.
"""

from __future__ import annotations

import getpass
import inspect
import json
import os
import shlex
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlsplit

import requests
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config_rollback.auth.claims import LEEWAY_SECONDS
from config_rollback.auth.tokens import mint_access_token
from config_rollback.outgoing import sessions as outgoing
from config_rollback.signing import MINIMUM_SECRET_BYTES
from config_rollback.visible import visible
from driftback_server.cli.output import output
from driftback_server.stack.layout import Layout, default_state_dir, demo_state_dir
from exporter.secret_files import read_secret

REFUSED, USAGE, UNREACHABLE = 1, 2, 3

_UNDECIDED = ("outcome_unknown", "request_in_progress")

_WIDE = 100_000
"""Width of a table in a pipe or a file, in columns: a row is one line there."""

TIMEOUT_SECONDS = (3, 30)
TOKEN_SECONDS = 300

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="DRIFTBACK_URL", help="URL of config_rollback; by default that of the running stack."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="DRIFTBACK_TOKEN",
        help="An access token; by default a new one, made with the stack's key.",
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="The state folder of the running stack.", show_default=False, file_okay=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Act without asking.")]
KEY_HELP = "With the same key a repeated command gets the first answer and changes nothing."
KeyOption = Annotated[str | None, typer.Option("--idempotency-key", help=KEY_HELP)]

# Printed text is never markup, because names and paths contain brackets and colons.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False}
out = Console(**_PLAIN)
err = Console(stderr=True, **_PLAIN)


def fail(message: str, exit_code: int) -> NoReturn:
    """Prints the message on standard error and ends the command."""
    err.print(visible(message), style="red", soft_wrap=True)
    raise typer.Exit(exit_code)


def broken(row: int | None, problem: str | None) -> str:
    """The problem that a verification of the audit log found."""
    where = "" if row is None else f" at row {row}"
    return f"The audit log is not intact{where}: {problem}."


def say(message: str) -> None:
    """Prints a line on standard output, exactly as it is."""
    out.print(visible(message), soft_wrap=True)


def report(data: dict[str, Any], as_json: bool, message: str) -> None:
    """Prints the result of an act: its data for scripts, or a line for people."""
    if as_json:
        print_json(data)
    else:
        say(message)


def print_json(content: Any) -> None:
    """Prints one JSON document on standard output, in ASCII, so invisible characters are escapes."""
    print(json.dumps(content))  # noqa: T201 (the command's output)


def table(*columns: str) -> Table:
    """A table without borders. On a narrow terminal, cells wrap and nothing is cut off."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def cell(value: object) -> Text:
    """A table cell. In a pipe a line break is a space."""
    text = "" if value is None else str(value)
    return Text(visible(" ".join(text.splitlines()) if _in_a_pipe() else text))


def print_table(made: Table) -> None:
    """The table on standard output."""
    Console(width=_WIDE if _in_a_pipe() else None, **_PLAIN).print(made)


def _in_a_pipe() -> bool:
    return not out.is_terminal and "COLUMNS" not in os.environ


def user() -> str:
    """The user of this machine, for audit rows; a container's user id may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def unless_exported(given: str | None, variable: str, state_dir: Path | None) -> str | None:
    """What an option gives; None if the environment does and `--state-dir` names a stack.

    What is exported for one stack must not act on another.
    """
    return None if state_dir is not None and given == os.environ.get(variable) else given


def running_stack(state_dir: Path | None = None, instead: str = "give --url and --token") -> dict[str, Any]:
    """What `driftback up` said of the running stack; without one the command ends (3), and says what to do
    `instead`.

    Without `state_dir` the default folder is looked at, then that of the demo; one where a stack runs comes
    before one whose stack was killed.
    """
    folders = [state_dir] if state_dir else [default_state_dir(), demo_state_dir()]
    for layout in sorted(map(Layout, folders), key=lambda layout: not layout.in_use()):
        try:
            stack: dict[str, Any] = json.loads(layout.stack_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            fail(
                f"cannot read {layout.stack_file}: {error}. Name another folder with --state-dir.",
                UNREACHABLE,
            )
        return stack
    searched = " or ".join(str(folder) for folder in folders)
    fail(f"no stack runs in {searched}: start one with `driftback up`, or {instead}", UNREACHABLE)


def jwt_secret(state_dir: Path | None, instead: str = "") -> str:
    """The key that signs tokens: $CONFIG_ROLLBACK_JWT_SECRET or _FILE, else that of the running stack."""
    inline, file = (os.environ.get(f"CONFIG_ROLLBACK_JWT_SECRET{suffix}") for suffix in ("", "_FILE"))
    if state_dir is None and inline and file:
        fail("CONFIG_ROLLBACK_JWT_SECRET and CONFIG_ROLLBACK_JWT_SECRET_FILE are both set: give one", USAGE)
    if state_dir is None and inline:
        return _long_enough(inline, "CONFIG_ROLLBACK_JWT_SECRET")
    folder = state_dir
    if folder is None and not file:
        instead += "set CONFIG_ROLLBACK_JWT_SECRET_FILE to the file of the service's key"
        folder = Path(running_stack(instead=instead)["state_dir"])
    path = Layout(folder).secrets / "jwt_secret" if folder else Path(str(file))
    try:
        secret = read_secret(path)
    except ValueError as error:
        fail(f"{'--state-dir' if folder else 'CONFIG_ROLLBACK_JWT_SECRET_FILE'}: {error}", USAGE)
    return _long_enough(secret, str(path))


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, without its name."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        fail(f"--url, DRIFTBACK_URL: {url} is not a URL such as http://127.0.0.1:9811", USAGE)


def _why(error: BaseException) -> str:
    """The innermost cause of an error of requests, whose own text only names objects."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(inner)
    texts = (cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror)
    return next(texts, "no answer in time" if isinstance(error, requests.Timeout) else str(error))


def _long_enough(secret: str, source: str) -> str:
    if len(secret.encode()) < MINIMUM_SECRET_BYTES:
        fail(f"{source}: must have at least {MINIMUM_SECRET_BYTES} bytes", USAGE)
    return secret


@dataclass(frozen=True)
class Connection:
    """A service and a token for it."""

    url: str
    token: str

    @classmethod
    def open(cls, url: str | None, token: str | None, state_dir: Path | None) -> Connection:
        """The service and token as given; by default the running stack, as the user of this machine."""
        url = unless_exported(url, "DRIFTBACK_URL", state_dir)
        token = unless_exported(token, "DRIFTBACK_TOKEN", state_dir)
        if url is None:
            url = str(running_stack(state_dir)["urls"]["config_rollback"])
        _check_url(url)
        if token is None:
            token = mint_access_token(
                jwt_secret(state_dir, "give --token, or "),
                subject=user(),
                role="ops",
                lifetime_seconds=TOKEN_SECONDS,
            )
        if not (token.isascii() and token.isprintable()):
            fail("--token, DRIFTBACK_TOKEN: contains characters that cannot be in a token", USAGE)
        return cls(url.rstrip("/"), token)

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """The body of the response; an error ends the command."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self._read(self._send("GET", path, params=wanted))

    def lines(self, path: str, **query: str | int | None) -> Iterator[bytes]:
        """The lines of a response as they arrive; an error or an early end ends the command."""
        wanted = {name: value for name, value in query.items() if value is not None}
        answer = self._send("GET", path, params=wanted, stream=True)
        with answer:
            if not answer.ok:
                self._read(answer)
            try:
                yield from answer.iter_lines(chunk_size=65536)
            except requests.RequestException as error:
                fail(
                    f"the response of {self.url} ended early: {_why(error)}. Run the command again.",
                    UNREACHABLE,
                )

    def act(self, path: str, body: dict[str, Any], key: str | None, repeat: str) -> dict[str, Any]:
        """The data of the response; an error ends the command.

        If the outcome is unknown, prints how to find out: the same command with the options in `repeat` and
        the key.
        """
        key = key or uuid.uuid4().hex
        try:
            answer = self._send("POST", path, json=body, headers={"Idempotency-Key": key})
            data: dict[str, Any] = self._read(answer)["data"]
        except typer.Exit as ended:
            if ended.exit_code == UNREACHABLE:
                err.print(
                    "The outcome is unknown. To find out, repeat the command with these options; it acts "
                    f"at most once: {repeat} --idempotency-key {shlex.quote(key)}",
                    soft_wrap=True,
                )
            raise
        output.act_is_done()
        return data

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **arguments.pop("headers", {})}
        try:
            answer = outgoing.request(
                method, self.url + path, headers=headers, timeout=TIMEOUT_SECONDS, **arguments
            )
        except requests.RequestException as error:
            fail(
                f"{self.url} cannot be reached: {_why(error)}. Check that config_rollback runs, and that "
                "--url or DRIFTBACK_URL is right.",
                UNREACHABLE,
            )
        if answer.is_redirect:
            fail(
                f"{self.url} redirects to {answer.headers['Location']}: give the final address with --url",
                UNREACHABLE,
            )
        return answer

    def _read(self, answer: requests.Response) -> dict[str, Any]:
        try:
            body: dict[str, Any] = answer.json()
            if answer.ok and "data" in body:
                return body
            error, request = body["error"], body["request_id"]
        except (ValueError, KeyError, TypeError, RecursionError):  # not JSON, or other JSON
            fail(
                f"{self.url} answered {answer.status_code}, but is not config_rollback: check --url or "
                "DRIFTBACK_URL",
                UNREACHABLE,
            )
        problems = "".join(
            f"\n  {item['field']}: {item['problem']}" for item in error["details"].get("errors", [])
        )
        clock = _clock_problem(answer) if error["code"] in ("token_invalid", "token_expired") else ""
        exit_code = UNREACHABLE if error["code"] in _UNDECIDED else REFUSED
        fail(f"{error['code']}: {error['message']}{problems}{clock}\nrequest {request}", exit_code)


def _clock_problem(answer: requests.Response) -> str:
    """Warns of a wrong clock, which makes new tokens invalid; empty if the clocks agree."""
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
    except (KeyError, ValueError, TypeError):  # TypeError: a date without a zone
        return ""
    if abs(ahead) <= LEEWAY_SECONDS:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    return f"\nThe clock of this machine is {abs(ahead):.0f} s {side} the service's."


def persona_path(persona: str) -> str:
    """The path of a persona in the API; the name is percent-encoded."""
    return f"/v1/ops/personas/{quote(persona, safe='')}"


def with_service(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that name a service; its first parameter is the `Connection` to it."""
    service_options = {"url": UrlOption, "token": TokenOption, "state_dir": StateDirOption}

    @wraps(command)
    def with_options(*, url: str | None, token: str | None, state_dir: Path | None, **arguments: Any) -> None:
        command(Connection.open(url, token, state_dir), **arguments)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in service_options.items()
    ]
    with_options.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return with_options
