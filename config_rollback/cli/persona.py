"""`driftback persona`: configurations and their versions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from config_rollback import diff
from config_rollback.audit import ACCEPT_BASELINE
from config_rollback.cli import connection, documents
from config_rollback.cli.connection import Connection, persona_path
from config_rollback.cli.documents import Document
from config_rollback.cli.output import output
from config_rollback.visible import visible

app = typer.Typer(no_args_is_help=True, help="Persona configurations and their versions.")

PersonaArgument = Annotated[str, typer.Argument(help="The persona's name.")]
FromOption = Annotated[
    int | None,
    typer.Option(
        "--from", min=1, help="The version that must be active, or nothing is done; else whichever is."
    ),
]

# Marks as in `git diff --word-diff`, so that nothing depends on colour.
_MARKS: dict[diff.Kind, tuple[str, str, str]] = {
    "same": ("", "", ""),
    "removed": ("[-", "-]", "red"),
    "added": ("{+", "+}", "green"),
}


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="YAML with `persona`, `note` and `config`.")],
    leaves: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=0,
            help="The version that must be active (0: none yet), or nothing is done; else whichever is.",
        ),
    ] = None,
    key: connection.KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show what would change, and publish it as the next version, which serves at once."""
    _require_from(leaves, key)
    try:
        document = documents.read(file)
    except ValueError as error:
        connection.fail(str(error), connection.USAGE)
    service = Connection.open(url, token, state_dir)
    active = _active(service, document.persona)
    number = active["active_version"] if active else 0
    if leaves in (None, number):  # else it was done already, or somebody was faster: the service knows
        before = _config(service, document.persona, number) if active else {}
        changes = diff.changes(before, document.config)
        if active and not changes:
            if json_output:
                connection.print_json({"published": False, "version": number})
            else:
                connection.say(f"Version {number} is the same; nothing was published.")
            return
        if active and leaves is None:
            left = _rolled_back(active)
            if left and not diff.changes(_config(service, document.persona, left), document.config):
                _warn_of_repetition(f"{_told(active)}; this is version {left} again", number, yes)
        if not json_output:
            _print_changes(changes)
        where = f"after version {number}" if active else "as its first version"
        _confirm(f"Publish this for {document.persona}, {where}?", yes)
    expected = number if leaves is None else leaves
    body = {"config": document.config, "note": document.note, "expected_version": expected}
    path = f"{persona_path(document.persona)}/versions"
    data = service.act(path, body, key, f"--from {expected}")
    if json_output:
        connection.print_json({"published": True, **data})
    else:
        connection.say(
            f"Version {data['version']} of {document.persona} serves now (audit {data['audit_id']})."
        )


@app.command("list")
def list_personas(
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """List personas and their active versions."""
    rows = Connection.open(url, token, state_dir).get("/v1/ops/personas")["data"]
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
def show(
    persona: PersonaArgument,
    version: Annotated[int | None, typer.Option(min=1, help="Which version; else the active one.")] = None,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show one version with its configuration, as YAML that `publish` takes."""
    service = Connection.open(url, token, state_dir)
    number = version or _require_active(service, persona)["active_version"]
    data = service.get(f"{persona_path(persona)}/versions/{number}")["data"]
    if json_output:
        connection.print_json(data)
        return
    state = "active" if data["active"] else "not active"
    by = visible(data["created_by"])
    print(f"# version {number}, {state}, by {by} at {data['created_at']}")  # noqa: T201 (the command's output)
    document = Document(persona=persona, note=data["note"], config=data["config"])
    print(documents.written(document, allow_unicode=output.is_utf8), end="")  # noqa: T201


@app.command()
def history(
    persona: PersonaArgument,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """List a persona's versions, newest first."""
    rows = Connection.open(url, token, state_dir).get(f"{persona_path(persona)}/versions")["data"]
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
def show_diff(
    persona: PersonaArgument,
    left: Annotated[int, typer.Argument(metavar="FROM", min=1)],
    right: Annotated[int, typer.Argument(metavar="TO", min=1)],
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show in which fields two versions differ."""
    service = Connection.open(url, token, state_dir)
    data = service.get(f"{persona_path(persona)}/diff", **{"from": left, "to": right})["data"]
    if json_output:
        connection.print_json(data)
    else:
        _print_changes([diff.Change(**change) for change in data["changes"]])


@app.command()
def rollback(
    persona: PersonaArgument,
    to: Annotated[
        int | None, typer.Option(min=1, help="Which version; else the last known good one.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit row.")] = None,
    leaves: FromOption = None,
    key: connection.KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show what would change, and put an earlier version back."""
    _require_from(leaves, key)
    service = Connection.open(url, token, state_dir)
    active = _require_active(service, persona)
    number = active["active_version"]
    if leaves in (None, number):  # else it was done already, or somebody was faster: the service knows
        if leaves is None and to is None and _rolled_back(active):
            _warn_of_repetition(_told(active), number, yes)
        target = to or active["rollback_to"]
        if target is None:
            connection.fail("nothing_to_rollback: no earlier version is known to be good", connection.REFUSED)
        if not json_output:
            query = {"from": number, "to": target}
            compared = service.get(f"{persona_path(persona)}/diff", **query)["data"]
            _print_changes([diff.Change(**change) for change in compared["changes"]])
        _confirm(f"Roll {persona} back from version {number} to version {target}?", yes)
        # Who was asked gets what was shown; else the service decides, so that a repetition asks for the same.
        to = to if yes else target
    expected = leaves or number
    body = {"expected_version": expected, "to_version": to, "reason": reason}
    repeat = f"--from {expected}" + (f" --to {to}" if to else "")
    data = service.act(f"{persona_path(persona)}/rollback", body, key, repeat)
    if json_output:
        connection.print_json(data)
    else:
        connection.say(f"{persona} is on version {data['to_version']} again (audit {data['audit_id']}).")


@app.command()
def accept(
    persona: PersonaArgument,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit row.")] = None,
    leaves: FromOption = None,
    key: connection.KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Accept what a persona does now as normal: drift is measured against it from now on."""
    _require_from(leaves, key)
    service = Connection.open(url, token, state_dir)
    active = _require_active(service, persona)
    number = active["active_version"]
    if leaves in (None, number):
        if leaves is None:
            filters = {"persona": persona, "action": ACCEPT_BASELINE, "status": "succeeded"}
            rows = service.get("/v1/ops/audit", limit=1, **filters)["data"]
            if rows and rows[0]["audit_id"] > active["audit_id"]:
                row = rows[0]
                told = f"{row['actor']} accepted it at {row['at'][:19]}Z (audit {row['audit_id']})"
                _warn_of_repetition(told, number, yes)
        _confirm(f"Measure drift of {persona} against version {number} from now on?", yes)
    expected = leaves or number
    body = {"expected_version": expected, "reason": reason}
    path = f"{persona_path(persona)}/baseline"
    data = service.act(path, body, key, f"--from {expected}")
    if json_output:
        connection.print_json(data)
    else:
        connection.say(
            f"Version {data['version']} of {persona} is the baseline now (audit {data['audit_id']})."
        )


def _active(service: Connection, persona: str) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = service.get("/v1/ops/personas")["data"]
    return next((row for row in rows if row["persona"] == persona), None)


def _require_active(service: Connection, persona: str) -> dict[str, Any]:
    active = _active(service, persona)
    if active is None:
        connection.fail(f"not_found: no persona is called {persona}", connection.REFUSED)
    return active


def _config(service: Connection, persona: str, version: int) -> dict[str, Any]:
    config: dict[str, Any] = service.get(f"{persona_path(persona)}/versions/{version}")["data"]["config"]
    return config


def _require_from(leaves: int | None, key: str | None) -> None:
    if key is not None and leaves is None:
        connection.fail("--idempotency-key needs --from: a repetition asks for the same", connection.USAGE)


def _rolled_back(active: dict[str, Any]) -> int | None:
    """The version that the newest act on the persona rolled back."""
    left: int | None = active["from_version"]
    return left if active["action"] == "rollback" and left and left > active["active_version"] else None


def _told(active: dict[str, Any]) -> str:
    versions = f"from version {active['from_version']} to {active['active_version']}"
    at = f"{active['activated_at'][:19]}Z"
    return f"{active['activated_by']} rolled back {versions} at {at} (audit {active['audit_id']})"


def _warn_of_repetition(told: str, number: int, yes: bool) -> None:
    """Says what was done last. With `--yes` nobody reads that, and a repetition would act once more."""
    if yes:
        connection.fail(
            f"{told}. Nothing was changed: to go on from version {number} after all, give --from {number}.",
            connection.REFUSED,
        )
    connection.err.print(visible(f"{told}."), style="yellow", soft_wrap=True)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    try:
        agreed = typer.confirm(visible(question), err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        connection.fail("\nNothing was changed: nobody answered. Give --yes to do it.", connection.REFUSED)
    if not agreed:
        connection.fail("Nothing was changed.", connection.REFUSED)


def _print_changes(changes: list[diff.Change]) -> None:
    if not changes:
        connection.say("The configurations are the same.")
    effort = diff.Effort()
    for change in changes:
        # A line that was broken here could not be told from one that the prompt breaks.
        connection.out.print(Text(visible(change.field), style="bold"), soft_wrap=True)
        connection.out.print(Text("  ").append_text(_rendered(change, effort)), soft_wrap=True)


def _rendered(change: diff.Change, effort: diff.Effort) -> Text:
    lists = isinstance(change.before, list) and isinstance(change.after, list)
    separator = "" if change.prose else ", " if lists else " -> "
    return Text(separator).join(_marked(piece) for piece in change.pieces(effort))


def _marked(piece: diff.Piece) -> Text:
    before, after, style = _MARKS[piece.kind]
    return Text(f"{before}{visible(piece.text)}{after}", style=style)
