"""`driftback access`: block one person at once, and undo that."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from config_rollback.signing import OWN_ISSUER
from driftback_server.cli import connection
from driftback_server.cli.connection import Connection

app = typer.Typer(no_args_is_help=True, help="Block people, and undo that.")

SubjectArgument = Annotated[
    str, typer.Argument(help="The person, as `driftback audit list` shows the actor.")
]
IssuerOption = Annotated[
    str, typer.Option("--issuer", help="The issuer of the name: `known by` in `driftback audit list`.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Why, for the audit row.")]


@app.command()
@connection.with_service
def revoke(
    service: Connection,
    subject: SubjectArgument,
    issuer: IssuerOption = OWN_ISSUER,
    reason: ReasonOption = None,
    key: connection.KeyOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Block a person: their sessions end, and their tokens are refused until `access allow`."""
    _act(service, "revoke", {"subject": subject, "issuer": issuer, "reason": reason}, key, json_output)


@app.command()
@connection.with_service
def allow(
    service: Connection,
    subject: SubjectArgument,
    issuer: IssuerOption = OWN_ISSUER,
    reason: ReasonOption = None,
    key: connection.KeyOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Unblock a person, who must then log in again."""
    _act(service, "allow", {"subject": subject, "issuer": issuer, "reason": reason}, key, json_output)


@app.command("list")
@connection.with_service
def list_people(
    service: Connection,
    json_output: connection.JsonOption = False,
) -> None:
    """List the blocked people, newest first."""
    rows = service.get("/v1/ops/access")["data"]
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
    done = "is blocked" if data["shut_out"] else "may log in again"
    message = f"{person['subject']}, known by {person['issuer']}, {done} (audit row {data['audit_id']})."
    connection.report(data, as_json, message)
