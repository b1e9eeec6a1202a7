"""`driftback persona`: commands that show configurations and versions (`acts.py` changes them)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from config_rollback.personas import diff
from config_rollback.visible import visible
from driftback_server.cli import connection
from driftback_server.cli.connection import Connection, persona_path
from driftback_server.cli.output import output

app = typer.Typer(no_args_is_help=True, help="Persona configurations and their versions.")

PersonaArgument = Annotated[str, typer.Argument(help="The persona's name.")]
# Marks as in `git diff --word-diff`, so that nothing depends on colour.
_MARKS: dict[diff.Kind, tuple[str, str, str]] = {
    "same": ("", "", ""),
    "removed": ("[-", "-]", "red"),
    "added": ("{+", "+}", "green"),
}


@app.command("list")
@connection.with_service
def list_personas(
    service: Connection,
    json_output: connection.JsonOption = False,
) -> None:
    """List personas and their active versions."""
    rows = service.get("/v1/ops/personas")["data"]
    if json_output:
        connection.print_json(rows)
        return
    table = connection.table("persona", "active", "since", "by", "a rollback restores")
    for row in rows:
        restores = row["rollback_to"]
        table.add_row(
            connection.cell(row["persona"]),
            str(row["active_version"]),
            row["activated_at"][:19] + "Z",
            connection.cell(row["activated_by"]),
            "-" if restores is None else str(restores),
        )
    connection.print_table(table)


@app.command()
@connection.with_service
def show(
    service: Connection,
    persona: PersonaArgument,
    version: Annotated[
        int | None, typer.Option(min=1, help="The version to show; by default the active one.")
    ] = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show one version with its configuration, as YAML that `publish` can read."""
    from driftback_server.cli import documents  # with pydantic, which only `show` and `publish` need

    number = version or require_active(service, persona)["active_version"]
    data = service.get(f"{persona_path(persona)}/versions/{number}")["data"]
    if json_output:
        connection.print_json(data)
        return
    state = "active" if data["active"] else "not active"
    by = visible(data["created_by"])
    print(f"# version {number}, {state}, by {by} at {data['created_at']}")  # noqa: T201 (the command's output)
    document = documents.Document(persona=persona, note=data["note"], config=data["config"])
    print(documents.written(document, allow_unicode=output.is_utf8), end="")  # noqa: T201


@app.command()
@connection.with_service
def history(
    service: Connection,
    persona: PersonaArgument,
    json_output: connection.JsonOption = False,
) -> None:
    """List a persona's versions, newest first."""
    rows = service.get(f"{persona_path(persona)}/versions")["data"]
    if json_output:
        connection.print_json(rows)
        return
    table = connection.table("version", "", "created", "by", "note")
    for row in rows:
        state = "active" if row["active"] else ""
        created = row["created_at"][:19] + "Z"
        by, note = connection.cell(row["created_by"]), connection.cell(row["note"])
        table.add_row(str(row["version"]), state, created, by, note)
    connection.print_table(table)


@app.command("diff")
@connection.with_service
def show_diff(
    service: Connection,
    persona: PersonaArgument,
    left: Annotated[int, typer.Argument(metavar="FROM", min=1)],
    right: Annotated[int, typer.Argument(metavar="TO", min=1)],
    json_output: connection.JsonOption = False,
) -> None:
    """Show in which fields two versions differ."""
    data = service.get(f"{persona_path(persona)}/diff", **{"from": left, "to": right})["data"]
    if json_output:
        connection.print_json(data)
    else:
        print_changes([diff.Change(**change) for change in data["changes"]])


def active_of(service: Connection, persona: str) -> dict[str, Any] | None:
    """The persona's active version and the act that activated it; None if the persona was never published."""
    rows: list[dict[str, Any]] = service.get("/v1/ops/personas")["data"]
    return next((row for row in rows if row["persona"] == persona), None)


def require_active(service: Connection, persona: str) -> dict[str, Any]:
    """The same. If the persona was never published, the command ends with an error."""
    active = active_of(service, persona)
    if active is None:
        connection.fail(f"not_found: there is no persona called {persona}", connection.REFUSED)
    return active


def print_changes(changes: list[diff.Change]) -> None:
    """The differences, marked as in `git diff --word-diff`."""
    if not changes:
        connection.say("The configurations are the same.")
    for change in changes:
        # Without wrapping: a wrapped line would look like a line break of the prompt.
        connection.out.print(Text(visible(change.field), style="bold"), soft_wrap=True)
        connection.out.print(Text("  ").append_text(_rendered(change)), soft_wrap=True)


def _rendered(change: diff.Change) -> Text:
    lists = isinstance(change.before, list) and isinstance(change.after, list)
    separator = "" if change.prose else ", " if lists else " -> "
    return Text(separator).join(_marked(piece) for piece in change.pieces())


def _marked(piece: diff.Piece) -> Text:
    before, after, style = _MARKS[piece.kind]
    return Text(f"{before}{visible(piece.text)}{after}", style=style)
