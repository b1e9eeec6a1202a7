"""Decides about publications, rollbacks and acceptances. Knows no HTTP; `attempts.py` carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from config_rollback.audit import record
from config_rollback.audit.chain import ACCEPT_BASELINE
from config_rollback.clock import isoformat
from config_rollback.errors import (
    ConfigChangedError,
    NotFoundError,
    NothingToRollBackError,
    TargetNotFoundError,
    VersionDamagedError,
)
from config_rollback.personas import persona_config
from config_rollback.rollback.attempts import Attempts, Call, Decision
from config_rollback.storage.models import Activation, Version
from config_rollback.storage.store import Transaction

ValidateConfig = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns the configuration to keep; raises `InvalidRequestError` naming the fields that are wrong."""


@dataclass(frozen=True)
class Publication:
    """A request to make `config` the next version; `expected_version` is what must be active (0: nothing)."""

    persona: str
    config: dict[str, Any]
    note: str = ""
    expected_version: int | None = None


@dataclass(frozen=True)
class Rollback:
    """A request to leave `expected_version`, for `to_version` or else the last known good one."""

    persona: str
    expected_version: int
    to_version: int | None = None
    reason: str | None = None
    alert: str | None = None


@dataclass(frozen=True)
class Published:
    """A new version that serves from now on."""

    persona: str
    version: int
    from_version: int | None
    content_hash: str
    activation_id: int
    audit_id: int
    activated_at: str


@dataclass(frozen=True)
class RolledBack:
    """An older version that serves again."""

    persona: str
    from_version: int
    to_version: int
    activation_id: int
    audit_id: int
    activated_at: str


@dataclass(frozen=True)
class Acceptance:
    """A request to take what a persona does now, with `expected_version`, for normal from now on."""

    persona: str
    expected_version: int
    reason: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The baseline of the drift alerts starts again at `accepted_at`."""

    persona: str
    version: int
    audit_id: int
    accepted_at: str


class Changes:
    """Publishes versions, rolls back, and accepts baselines."""

    def __init__(
        self, attempts: Attempts, validate_config: ValidateConfig = persona_config.validate_config
    ) -> None:
        self._attempts = attempts
        self._validate_config = validate_config

    def publish(self, request: Publication, call: Call) -> Published:
        """Adds a version and activates it.

        Raises `InvalidRequestError`, `ConfigChangedError`, and what `Attempts.perform` raises.
        """
        persona = request.persona
        config_json = persona_config.canonical_json(self._validate_config(request.config))
        content_hash = persona_config.content_hash(config_json)
        attempt = self._attempts.begin(
            call,
            "publish",
            persona,
            from_version=request.expected_version or None,
            reason=request.note or None,
        )

        def decide(transaction: Transaction) -> Decision[Published]:
            active = transaction.active(persona)
            leaves = active.version if active else None
            if active is None:
                persona_config.check_new_persona(persona)
            if request.expected_version not in (None, leaves or 0):
                raise _changed(request.expected_version, leaves)
            number = transaction.newest_version_number(persona) + 1
            row = replace(attempt, from_version=leaves, to_version=number, content_hash=content_hash)

            def carry_out(audit_id: int) -> Published:
                transaction.add_version(
                    Version(
                        persona=persona,
                        number=number,
                        content_hash=content_hash,
                        config_json=config_json,
                        created_at=row.at,
                        created_by=row.actor,
                        note=request.note,
                    )
                )
                activation_id = transaction.activate(row, audit_id)
                return Published(
                    persona, number, leaves, content_hash, activation_id, audit_id, isoformat(row.at)
                )

            return Decision(row, carry_out)

        return self._attempts.perform(call, attempt, request, decide, Published)

    def roll_back(self, request: Rollback, call: Call) -> RolledBack:
        """Activates an older version.

        Raises `NotFoundError`, `ConfigChangedError`, `TargetNotFoundError`, `NothingToRollBackError`,
        `VersionDamagedError`, and what `Attempts.perform` raises.
        """
        persona, leaves = request.persona, request.expected_version
        attempt = self._attempts.begin(
            call,
            "rollback",
            persona,
            from_version=leaves,
            to_version=request.to_version,
            reason=request.reason,
            alert=request.alert,
        )

        def decide(transaction: Transaction) -> Decision[RolledBack]:
            active = _expected(transaction.active(persona), leaves)
            target = _target(transaction, active, request.to_version)
            row = replace(attempt, to_version=target.number, content_hash=target.content_hash)

            def carry_out(audit_id: int) -> RolledBack:
                activation_id = transaction.activate(row, audit_id)
                return RolledBack(persona, leaves, target.number, activation_id, audit_id, isoformat(row.at))

            return Decision(row, carry_out)

        return self._attempts.perform(call, attempt, request, decide, RolledBack)

    def accept_baseline(self, request: Acceptance, call: Call) -> Accepted:
        """Records that a change was meant; no configuration changes. The audit row is all there is of it.

        Raises `NotFoundError`, `ConfigChangedError`, and what `Attempts.perform` raises.
        """
        persona, version = request.persona, request.expected_version
        attempt = self._attempts.begin(
            call, ACCEPT_BASELINE, persona, from_version=version, reason=request.reason
        )

        def decide(transaction: Transaction) -> Decision[Accepted]:
            _expected(transaction.active(persona), version)
            return Decision(
                attempt, lambda audit_id: Accepted(persona, version, audit_id, isoformat(attempt.at))
            )

        return self._attempts.perform(call, attempt, request, decide, Accepted)


def _expected(active: Activation | None, version: int) -> Activation:
    """The active version, if it is the one that the caller expects."""
    if active is None:
        raise NotFoundError("there is no such persona")
    if active.version != version:
        raise _changed(version, active.version)
    return active


def _target(transaction: Transaction, active: Activation, wanted: int | None) -> Version:
    number = transaction.default_target(active) if wanted is None else wanted
    if number is None:
        raise NothingToRollBackError("no earlier version is known to be good; name one with to_version")
    if number == active.version:
        raise NothingToRollBackError(f"version {number} is active already")
    target = transaction.version(active.persona, number)
    if target is None:
        raise TargetNotFoundError(f"version {number} does not exist")
    publications = transaction.publications(active.persona, number)
    if len(publications) != 1 or record.objection(publications[0]) is not None:
        raise VersionDamagedError(
            f"version {number} is not as it was published; name another with to_version, or publish it again"
        )
    return target


def _changed(expected: int | None, active: int | None) -> ConfigChangedError:
    return ConfigChangedError(
        f"version {expected} is not active any more; nothing was changed",
        expected_version=expected,
        active_version=active,
    )
