"""`driftback persona publish`, `rollback` and `accept`: acts that may be repeated after a lost answer.

With `--from` and `--idempotency-key` a repetition is the same act. Without, `--yes` does nothing where it may
well be a repetition.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from config_rollback.audit.chain import ACCEPT_BASELINE
from config_rollback.personas import diff
from config_rollback.visible import visible
from driftback_server.cli import connection, documents
from driftback_server.cli.connection import Connection, persona_path
from driftback_server.cli.persona import PersonaArgument, active_of, print_changes, require_active

FromOption = Annotated[
    int | None,
    typer.Option(
        "--from", min=1, help="The version that must be active, or nothing is done; else whichever is."
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
            help="The version that must be active (0: none yet), or nothing is done; else whichever is.",
        ),
    ] = None,
    key: KeyOption = None,
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
    active = active_of(service, document.persona)
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
            print_changes(changes)
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


def rollback(
    persona: PersonaArgument,
    to: Annotated[
        int | None, typer.Option(min=1, help="Which version; else the last known good one.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit row.")] = None,
    leaves: FromOption = None,
    key: KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show what would change, and put an earlier version back."""
    _require_from(leaves, key)
    service = Connection.open(url, token, state_dir)
    active = require_active(service, persona)
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
            print_changes([diff.Change(**change) for change in compared["changes"]])
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


def accept(
    persona: PersonaArgument,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit row.")] = None,
    leaves: FromOption = None,
    key: KeyOption = None,
    yes: connection.YesOption = False,
    url: connection.UrlOption = None,
    token: connection.TokenOption = None,
    state_dir: connection.StateDirOption = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Accept what a persona does now as normal: drift is measured against it from now on."""
    _require_from(leaves, key)
    service = Connection.open(url, token, state_dir)
    active = require_active(service, persona)
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
