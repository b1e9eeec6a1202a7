"""Decides what a publication or a rollback does. Knows no HTTP; `attempts.py` makes it a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from config_rollback.audit import record
from config_rollback.audit.chain import ACCEPT_BASELINE, Attempt
from config_rollback.clock import isoformat
from config_rollback.errors import (
    ConfigChangedError,
    NotFoundError,
    NothingToRollBackError,
    TargetNotFoundError,
    VersionDamagedError,
)
from config_rollback.personas import persona_config
from config_rollback.rollback.attempts import Attempts, Call
from config_rollback.storage.models import Activation, Version
from config_rollback.storage.store import Transaction

ValidateConfig = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns the configuration to keep; raises `InvalidRequestError` naming the fields that are wrong."""


@dataclass(frozen=True)
class Publication:
    """A wish to make `config` the next version; `expected_version` is what must be active (0: nothing)."""

    persona: str
    config: dict[str, Any]
    note: str = ""
    expected_version: int | None = None


@dataclass(frozen=True)
class Rollback:
    """A wish to leave `expected_version`, for `to_version` or else the last known good one."""

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
    """A wish to take what a persona does now, with `expected_version`, for normal from now on."""

    persona: str
    expected_version: int
    reason: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The baseline of the drift alerts starts anew at `accepted_at`."""

    persona: str
    version: int
    audit_id: int
    accepted_at: str


class Changes:
    """Publishes, rolls back, and accepts what is."""

    def __init__(
        self, attempts: Attempts, validate_config: ValidateConfig = persona_config.validate_config
    ) -> None:
        self._attempts = attempts
        self._validate_config = validate_config

    def publish(self, wish: Publication, call: Call) -> Published:
        """Adds a version and activates it.

        Raises `InvalidRequestError`, `ConfigChangedError`, and what `Attempts.perform` raises.
        """
        config_json = persona_config.canonical_json(self._validate_config(wish.config))
        attempt = self._attempts.begin(call, "publish", wish.persona)
        attempt = replace(attempt, from_version=wish.expected_version or None, reason=wish.note or None)

        def decide(transaction: Transaction) -> Published:
            active = transaction.active(wish.persona)
            leaves = active.version if active else None
            if active is None:
                persona_config.check_new_persona(wish.persona)
            if wish.expected_version is not None and wish.expected_version != (leaves or 0):
                raise _changed(wish.expected_version, leaves)
            version = Version(
                persona=wish.persona,
                number=transaction.newest_version_number(wish.persona) + 1,
                content_hash=persona_config.content_hash(config_json),
                config_json=config_json,
                created_at=attempt.at,
                created_by=attempt.actor,
                note=wish.note,
            )
            transaction.add_version(version)
            activation = _activate(transaction, attempt, leaves, version)
            return Published(
                persona=wish.persona,
                version=version.number,
                from_version=leaves,
                content_hash=version.content_hash,
                activation_id=activation.activation_id,
                audit_id=activation.audit_id,
                activated_at=isoformat(activation.activated_at),
            )

        return self._attempts.perform(call, attempt, decide, asdict(wish), Published)

    def roll_back(self, wish: Rollback, call: Call) -> RolledBack:
        """Activates an older version.

        Raises `NotFoundError`, `ConfigChangedError`, `TargetNotFoundError`, `NothingToRollBackError`,
        `VersionDamagedError`, and what `Attempts.perform` raises.
        """
        attempt = replace(
            self._attempts.begin(call, "rollback", wish.persona),
            from_version=wish.expected_version,
            to_version=wish.to_version,
            reason=wish.reason,
            alert=wish.alert,
        )

        def decide(transaction: Transaction) -> RolledBack:
            active = _expected(transaction, wish.persona, wish.expected_version)
            target = _target(transaction, active, wish.to_version)
            activation = _activate(transaction, attempt, active.version, target)
            return RolledBack(
                persona=wish.persona,
                from_version=active.version,
                to_version=target.number,
                activation_id=activation.activation_id,
                audit_id=activation.audit_id,
                activated_at=isoformat(activation.activated_at),
            )

        return self._attempts.perform(call, attempt, decide, asdict(wish), RolledBack)

    def accept_baseline(self, wish: Acceptance, call: Call) -> Accepted:
        """Records that a change was meant; no configuration changes. The audit row is all there is of it.

        Raises `NotFoundError`, `ConfigChangedError`, and what `Attempts.perform` raises.
        """
        attempt = replace(
            self._attempts.begin(call, ACCEPT_BASELINE, wish.persona),
            from_version=wish.expected_version,
            reason=wish.reason,
        )

        def decide(transaction: Transaction) -> Accepted:
            active = _expected(transaction, wish.persona, wish.expected_version)
            head = transaction.append_audit(attempt)
            return Accepted(wish.persona, active.version, head.audit_id, isoformat(attempt.at))

        return self._attempts.perform(call, attempt, decide, asdict(wish), Accepted)


def _expected(transaction: Transaction, persona: str, version: int) -> Activation:
    """What is active, if it is what the caller has seen."""
    active = transaction.active(persona)
    if active is None:
        raise NotFoundError("no such persona")
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
            f"version {number} is not as it was published; name another with to_version, or publish it anew"
        )
    return target


def _activate(transaction: Transaction, attempt: Attempt, leaves: int | None, target: Version) -> Activation:
    done = replace(attempt, from_version=leaves, to_version=target.number, content_hash=target.content_hash)
    head = transaction.append_audit(done)
    activation = Activation(
        persona=target.persona,
        version=target.number,
        from_version=leaves,
        action=attempt.action,
        activated_at=attempt.at,
        activated_by=attempt.actor,
        audit_id=head.audit_id,
    )
    transaction.add_activation(activation)
    return activation


def _changed(expected: int, active: int | None) -> ConfigChangedError:
    return ConfigChangedError(
        f"version {expected} is not active any more; nothing was changed",
        expected_version=expected,
        active_version=active,
    )
