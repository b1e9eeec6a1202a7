"""`driftback audit`: who did what, and whether the audit log is intact."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from config_rollback.audit.chain import ACTIONS, STATUSES, Head, Verification
from driftback_server.cli import connection
from driftback_server.cli.connection import Connection
from driftback_server.cli.db import verify_audit
from driftback_server.cli.output import output

app = typer.Typer(no_args_is_help=True, help="Who did what, and whether the audit log is intact.")


@app.command("list")
@connection.with_service
def list_rows(
    service: Connection,
    persona: Annotated[str | None, typer.Option(help="Only rows about this persona.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only rows of this actor.")] = None,
    action: Annotated[
        str | None, typer.Option(help=f"Only rows of this action: {', '.join(ACTIONS)}.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help=f"Only rows with this status: {' or '.join(STATUSES)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows to list.")] = 50,
    json_output: connection.JsonOption = False,
) -> None:
    """List acts and refused attempts, newest first."""
    filters = {"persona": persona, "actor": actor, "action": action, "status": status}
    rows = service.get("/v1/ops/audit", limit=limit, **filters)["data"]
    if json_output:
        connection.print_json(rows)
        return
    table = connection.table(
        "id", "at", "actor", "known by", "action", "persona", "from", "to", "status", "reason"
    )
    for row in rows:
        table.add_row(
            str(row["audit_id"]),
            row["at"][:19] + "Z",
            connection.cell(row["actor"]),
            connection.cell(row["issuer"]),
            row["action"],
            connection.cell(row["persona"]),
            connection.cell(row["from_version"]),
            connection.cell(row["to_version"]),
            _outcome(row),
            connection.cell(row["reason"] or row["alert"]),
            style=None if row["status"] == "succeeded" else "yellow",
        )
    connection.print_table(table)


@app.command()
@connection.with_service
def export(
    service: Connection,
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; by default standard output.", dir_okay=False)
    ] = None,
    after: Annotated[int | None, typer.Option(min=1, help="Only the rows after this one.")] = None,
) -> None:
    """Write every row as a line of JSON, oldest first; `driftback audit verify --file` checks it later."""
    rows = service.lines("/v1/ops/audit/export", after=after)
    if file is None:
        for row in rows:
            sys.stdout.buffer.write(row + b"\n")  # the exact bytes that were hashed
            if output.lost:
                break
        return
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("wb") as target:
            count = sum(target.write(row + b"\n") > 0 for row in rows)
        partial.replace(file)  # so a file of this name is complete
    except OSError as error:
        connection.fail(f"cannot write {file}: {error.strerror}", connection.USAGE)
    connection.err.print(f"{count} rows in {file}.", soft_wrap=True)


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(help="A head that the chain must contain: `<audit_id>:<hash>` from a log line."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Check this export instead, without the service.", dir_okay=False)
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Check this database instead, without the service.")
    ] = None,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Check the hash chain, activations and versions; if a row does not match, name it and exit with 1."""
    try:
        known = None if head is None else Head.parse(head)
    except ValueError as error:
        connection.fail(str(error), connection.USAGE)
    if database_url is not None:
        result = asdict(verify_audit(database_url, known))
    elif file is None:
        result = Connection.open(url, token, state_dir).get("/v1/ops/audit/verify", head=head)["data"]
    else:
        result = asdict(_verify_file(file, known))
    if json_output:
        connection.print_json(result)
    elif result["valid"]:
        connection.out.print(
            f"{result['rows']} rows, all intact. Head {_head(result['head'])}", soft_wrap=True
        )
    else:
        connection.err.print(
            connection.broken(result["broken_at"], result["problem"]),
            style="red",
            markup=False,
            soft_wrap=True,
        )
    if not result["valid"]:
        raise typer.Exit(connection.REFUSED)


def _verify_file(file: Path, known: Head | None) -> Verification:
    from config_rollback.audit import exports  # with pydantic, which no other command of this group needs

    try:
        with file.open("rb") as lines:
            return exports.verify(lines, known)
    except OSError as error:
        connection.fail(f"cannot read {file}: {error.strerror}", connection.USAGE)
    except ValueError as error:
        connection.fail(f"{file}: {error}", connection.USAGE)


def _outcome(row: dict[str, Any]) -> str:
    times = f" ({row['attempts']} times)" if row["attempts"] > 1 else ""
    return f"{row['error_code'] or row['status']}{times}"


def _head(head: dict[str, object]) -> str:
    return f"{head['audit_id']}:{head['hash']}"
