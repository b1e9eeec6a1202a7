"""`driftback persona publish`, `rollback` and `accept`: acts that are safe to repeat after a lost answer.

With `--from` and `--idempotency-key` a repetition is the same act. Without them, `--yes` refuses to act if
the command may be a repetition.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from config_rollback.audit.chain import ACCEPT_BASELINE
from config_rollback.personas import diff
from config_rollback.visible import visible
from driftback_server.cli import connection
from driftback_server.cli.connection import Connection, persona_path
from driftback_server.cli.persona import PersonaArgument, active_of, print_changes, require_active

FromOption = Annotated[
    int | None,
    typer.Option(
        "--from", min=1, help="Act only if this version is active; by default, whichever is active."
    ),
]
KeyOption = Annotated[
    str | None, typer.Option("--idempotency-key", help=f"{connection.KEY_HELP} Needs --from.")
]


def publish(
    file: Annotated[Path, typer.Argument(help="YAML with `persona`, `note` and `config`.")],
    leaves: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=0,
            help="Act only if this version is active (0: none yet); by default, whichever is active.",
        ),
    ] = None,
    key: KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show what would change, and publish the file as the next version, which is active at once."""
    from driftback_server.cli import documents  # with pydantic, which only `show` and `publish` need

    _require_from(leaves, key)
    try:
        document = documents.read(file)
    except ValueError as error:
        connection.fail(str(error), connection.USAGE)
    service = Connection.open(url, token, state_dir)
    active = active_of(service, document.persona)
    number = active["active_version"] if active else 0
    if leaves in (None, number):  # otherwise it was done already, or somebody was faster: the service decides
        before = _config(service, document.persona, number) if active else {}
        changes = diff.changes(before, document.config)
        if active and not changes:
            same = f"Nothing was published: version {number} has the same configuration."
            connection.report({"published": False, "version": number}, json_output, same)
            return
        if active and leaves is None:
            left = _rolled_back(active)
            if left and not diff.changes(_config(service, document.persona, left), document.config):
                _warn_of_repetition(
                    f"{_last_rollback(active)}; this file is version {left} again", number, yes
                )
        if not json_output:
            print_changes(changes)
        where = f"after version {number}" if active else "as its first version"
        _confirm(f"Publish this for {document.persona}, {where}?", yes)
    expected = number if leaves is None else leaves
    body = {"config": document.config, "note": document.note, "expected_version": expected}
    path = f"{persona_path(document.persona)}/versions"
    data = service.act(path, body, key, f"--from {expected}")
    message = f"Version {data['version']} of {document.persona} is active now (audit row {data['audit_id']})."
    connection.report({"published": True, **data}, json_output, message)


@connection.with_service
def rollback(
    service: Connection,
    persona: PersonaArgument,
    to: Annotated[
        int | None, typer.Option(min=1, help="The version to restore; by default the last known good one.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="The reason, for the audit row.")] = None,
    leaves: FromOption = None,
    key: KeyOption = None,
    yes: connection.YesOption = False,
    json_output: connection.JsonOption = False,
) -> None:
    """Show what would change, and restore an earlier version."""
    _require_from(leaves, key)
    active = require_active(service, persona)
    number = active["active_version"]
    if leaves in (None, number):  # otherwise it was done already, or somebody was faster: the service decides
        if leaves is None and to is None and _rolled_back(active):
            _warn_of_repetition(_last_rollback(active), number, yes)
        target = to or active["rollback_to"]
        if target is None:
            connection.fail(
                "nothing_to_rollback: no earlier version is known to be good; name one with --to",
                connection.REFUSED,
            )
        if not json_output:
            query = {"from": number, "to": target}
            compared = service.get(f"{persona_path(persona)}/diff", **query)["data"]
            print_changes([diff.Change(**change) for change in compared["changes"]])
        _confirm(f"Roll {persona} back from version {number} to version {target}?", yes)
        # After a question, restore the version that was shown. Otherwise the service decides again.
        to = to if yes else target
    expected = leaves or number
    body = {"expected_version": expected, "to_version": to, "reason": reason}
    repeat = f"--from {expected}" + (f" --to {to}" if to else "")
    data = service.act(f"{persona_path(persona)}/rollback", body, key, repeat)
    message = f"Version {data['to_version']} of {persona} is active again (audit row {data['audit_id']})."
    connection.report(data, json_output, message)


@connection.with_service
def accept(
    service: Connection,
    persona: PersonaArgument,
    reason: Annotated[str | None, typer.Option(help="The reason, for the audit row.")] = None,
    leaves: FromOption = None,
    key: KeyOption = None,
    yes: connection.YesOption = False,
    json_output: connection.JsonOption = False,
) -> None:
    """Accept the persona's present behaviour as the new baseline of drift."""
    _require_from(leaves, key)
    active = require_active(service, persona)
    number = active["active_version"]
    if leaves in (None, number):
        if leaves is None:
            filters = {"persona": persona, "action": ACCEPT_BASELINE, "status": "succeeded"}
            rows = service.get("/v1/ops/audit", limit=1, **filters)["data"]
            if rows and rows[0]["audit_id"] > active["audit_id"]:
                row = rows[0]
                accepted = f"{row['actor']} accepted it at {row['at'][:19]}Z (audit row {row['audit_id']})"
                _warn_of_repetition(accepted, number, yes)
        _confirm(f"Measure drift of {persona} against version {number} from now on?", yes)
    expected = leaves or number
    body = {"expected_version": expected, "reason": reason}
    path = f"{persona_path(persona)}/baseline"
    data = service.act(path, body, key, f"--from {expected}")
    message = f"Version {data['version']} of {persona} is the baseline now (audit row {data['audit_id']})."
    connection.report(data, json_output, message)


def _config(service: Connection, persona: str, version: int) -> dict[str, Any]:
    config: dict[str, Any] = service.get(f"{persona_path(persona)}/versions/{version}")["data"]["config"]
    return config


def _require_from(leaves: int | None, key: str | None) -> None:
    if key is not None and leaves is None:
        connection.fail(
            "--idempotency-key needs --from, because a repetition must be the same request", connection.USAGE
        )


def _rolled_back(active: dict[str, Any]) -> int | None:
    """The version that the newest act on the persona rolled back; None if that act was no rollback."""
    left: int | None = active["from_version"]
    return left if active["action"] == "rollback" and left and left > active["active_version"] else None


def _last_rollback(active: dict[str, Any]) -> str:
    versions = f"from version {active['from_version']} to {active['active_version']}"
    at = f"{active['activated_at'][:19]}Z"
    return f"{active['activated_by']} rolled back {versions} at {at} (audit row {active['audit_id']})"


def _warn_of_repetition(last_act: str, number: int, yes: bool) -> None:
    """Warns on a terminal; with `--yes`, where nobody reads the warning, refuses to act once more."""
    if yes:
        connection.fail(
            f"{last_act}. Nothing was changed. If you mean to change version {number}, add --from {number}.",
            connection.REFUSED,
        )
    connection.err.print(visible(f"{last_act}."), style="yellow", soft_wrap=True)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    try:
        agreed = typer.confirm(visible(question), err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        connection.fail(
            "\nNothing was changed, because nobody answered the question. Add --yes to act without it.",
            connection.REFUSED,
        )
    if not agreed:
        connection.fail("Nothing was changed.", connection.REFUSED)
