"""`driftback access`: one person shut out at once, and let in again."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from config_rollback.settings import OWN_ISSUER
from driftback_server.cli import connection
from driftback_server.cli.connection import Connection

app = typer.Typer(no_args_is_help=True, help="Who is shut out.")

SubjectArgument = Annotated[
    str, typer.Argument(help="The person, as `driftback audit list` shows the actor.")
]
IssuerOption = Annotated[
    str, typer.Option("--issuer", help="Who vouches for the name: `known by` in `driftback audit list`.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Why, for the audit row.")]


@app.command()
def revoke(
    subject: SubjectArgument,
    issuer: IssuerOption = OWN_ISSUER,
    reason: ReasonOption = None,
    key: connection.KeyOption = None,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Shut a person out: their sessions end, their tokens open nothing until `access allow`."""
    service = Connection.open(url, token, state_dir)
    _act(service, "revoke", {"subject": subject, "issuer": issuer, "reason": reason}, key, json_output)


@app.command()
def allow(
    subject: SubjectArgument,
    issuer: IssuerOption = OWN_ISSUER,
    reason: ReasonOption = None,
    key: connection.KeyOption = None,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Let a person in again; they log in anew."""
    service = Connection.open(url, token, state_dir)
    _act(service, "allow", {"subject": subject, "issuer": issuer, "reason": reason}, key, json_output)


@app.command("list")
def list_people(
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """List who is shut out, the newest first."""
    rows = Connection.open(url, token, state_dir).get("/v1/ops/access")["data"]
    if json_output:
        connection.print_json(rows)
        return
    table = connection.table("subject", "known by", "since")
    for row in rows:
        table.add_row(
            connection.cell(row["subject"]), connection.cell(row["issuer"]), row["since"][:19] + "Z"
        )
    connection.print_table(table)


def _act(
    service: Connection, what: str, person: dict[str, str | None], key: str | None, as_json: bool
) -> None:
    repeat = f"--issuer {shlex.quote(str(person['issuer']))}"
    data = service.act(f"/v1/ops/access/{what}", person, key, repeat)
    if as_json:
        connection.print_json(data)
    else:
        done = "is shut out" if data["shut_out"] else "may log in again"
        connection.say(
            f"{person['subject']}, known by {person['issuer']}, {done} (audit {data['audit_id']})."
        )
