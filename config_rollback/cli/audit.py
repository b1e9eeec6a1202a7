"""`driftback audit`: who did what, and whether the record still holds."""

from __future__ import annotations

from typing import Annotated

import typer

from config_rollback.cli import connection
from config_rollback.cli.connection import Connection

app = typer.Typer(no_args_is_help=True, help="Who did what, and whether the record still holds.")


@app.command("list")
def list_rows(
    persona: Annotated[str | None, typer.Option(help="Only rows about this persona.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only rows of this actor.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows, newest first.")] = 50,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """List attempts, done or refused, newest first."""
    service = Connection.open(url, token, state_dir)
    rows = service.get("/v1/ops/audit", persona=persona, actor=actor, limit=limit)["data"]
    if json_output:
        connection.print_json(rows)
        return
    table = connection.table("id", "at", "actor", "action", "persona", "from", "to", "status", "reason")
    for row in rows:
        table.add_row(
            str(row["audit_id"]),
            row["at"][:19] + "Z",
            _plain(row["actor"]),
            row["action"],
            _plain(row["persona"]),
            _plain(row["from_version"]),
            _plain(row["to_version"]),
            row["status"] if row["error_code"] is None else row["error_code"],
            _plain(row["reason"] or row["alert"]),
            style=None if row["status"] == "succeeded" else "yellow",
        )
    connection.print_table(table)


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(help="A head that must be part of the chain, `<audit_id>:<hash>` from a log line."),
    ] = None,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Walk the whole hash chain; exit code 1 names the first row that breaks it."""
    result = Connection.open(url, token, state_dir).get("/v1/ops/audit/verify", head=head)["data"]
    if json_output:
        connection.print_json(result)
    elif result["valid"]:
        connection.out.print(f"{result['rows']} rows, unbroken. Head {_head(result['head'])}", soft_wrap=True)
    else:
        connection.err.print(
            f"The chain breaks at row {result['broken_at']}: {result['problem']}.",
            style="red",
            soft_wrap=True,
        )
    if not result["valid"]:
        raise typer.Exit(connection.REFUSED)


def _head(head: dict[str, object]) -> str:
    return f"{head['audit_id']}:{head['hash']}"


def _plain(value: object) -> str:
    """Text for a table cell; brackets are not rich's markup."""
    return "" if value is None else str(value).replace("[", r"\[")
