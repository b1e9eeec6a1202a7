"""The label policy: which label values are taken, and how many label sets there may be.

Journeys and reasons come from allow-lists. Personas and versions are open, but bounded: what is past a bound
is counted under `other`, so that messages are never lost to a label leak and Prometheus is never flooded by
one.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from driftback import contract
from exporter import catalogue
from exporter.errors import InvalidRequestError, LabelNotAllowedError, PolicyError
from exporter.storage.series import Key
from exporter.strict import read_yaml
from exporter.wire import Label

Bound = Annotated[int, Meta(ge=1, le=1_000_000)]


class JourneyPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """What messages of a journey can be."""

    out_of_scope: bool = False


def _default_journeys() -> dict[str, JourneyPolicy]:
    scoped = catalogue.OUT_OF_SCOPE_JOURNEYS
    return {journey: JourneyPolicy(out_of_scope=journey in scoped) for journey in catalogue.JOURNEYS}


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """The label policy, as the YAML file of EXPORTER_POLICY_FILE gives it."""

    journeys: dict[Label, JourneyPolicy] = msgspec.field(default_factory=_default_journeys)
    reasons: tuple[Label, ...] = contract.REASONS
    max_personas: Bound = 200
    max_versions_per_persona: Bound = 50
    max_series: Bound = 2000
    """Label sets (journey, persona, config_version); each is about 60 series in Prometheus."""


def load_policy(path: Path | None) -> Policy:
    """Read the policy file, or give the defaults without one. Raises PolicyError."""
    if path is None:
        return Policy()
    try:
        policy = msgspec.convert(read_yaml(path.read_text(encoding="utf-8")), Policy)
    except OSError as error:
        raise PolicyError(f"EXPORTER_POLICY_FILE: cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # msgspec's is one
        remedy = ": write true or false" if "Expected `bool`" in str(error) else ""
        raise PolicyError(
            f"EXPORTER_POLICY_FILE: {path} is not a valid label policy: {error}{remedy}"
        ) from None
    if not all(map(_is_showable, (*policy.journeys, *policy.reasons))):
        raise PolicyError(
            f"EXPORTER_POLICY_FILE: {path}: journeys and reasons are text without NUL and surrogates"
        )
    if not policy.journeys:
        raise PolicyError(f"EXPORTER_POLICY_FILE: {path} lists no journey: add at least one")
    if contract.OTHER not in policy.reasons:
        raise PolicyError(f"EXPORTER_POLICY_FILE: {path}: reasons must contain '{contract.OTHER}'")
    if len(set(policy.reasons)) < len(policy.reasons):
        raise PolicyError(f"EXPORTER_POLICY_FILE: {path}: a reason occurs twice")
    return policy


def _is_showable(label: str) -> bool:
    """Whether the text format can carry it."""
    return "\0" not in label and not any("\ud800" <= character <= "\udfff" for character in label)


class Limits:
    """Decides under which key an increment is counted. Knows all admitted keys, also those being written."""

    def __init__(self, policy: Policy, on_overflow: Callable[[str], None]) -> None:
        self.policy = policy
        self._on_overflow = on_overflow
        self._admitted: set[Key] = set()
        self._versions: dict[str, set[str]] = {}

    def reset(self, keys: Iterable[Key]) -> None:
        """Start from these keys: after recovery, expiry, or a write that failed."""
        self._admitted = set()
        self._versions = {}
        for key in keys:
            self._take(key)

    def change(self, policy: Policy) -> None:
        """Judge by another policy from now on. What was admitted stays: a lower bound holds for new keys."""
        self.policy = policy

    def admit(self, key: Key) -> Key:
        """The key to count under: `key` itself, or one with `other` in it. Call `check` before."""
        if key in self._admitted:
            return key
        journey, persona, version = key
        if len(self._admitted) >= self.policy.max_series:
            return self._overflow("series_overflow", (journey, contract.OTHER, contract.OTHER))
        versions = self._versions.get(persona)
        if versions is None:
            if len(self._versions) >= self.policy.max_personas:
                return self._overflow("persona_overflow", (journey, contract.OTHER, contract.OTHER))
        elif version not in versions and len(versions) >= self.policy.max_versions_per_persona:
            return self._overflow("version_overflow", (journey, persona, contract.OTHER))
        return self._take(key)

    def check(self, journey: str, out_of_scope: int, reasons: Iterable[str]) -> None:
        """Check what comes from an allow-list. Raises LabelNotAllowedError or InvalidRequestError."""
        policy = self.policy.journeys.get(journey)
        if policy is None:
            raise LabelNotAllowedError(
                f"Unknown journey {journey!r}", {"allowed": list(self.policy.journeys)}
            )
        if out_of_scope and not policy.out_of_scope:
            raise InvalidRequestError(f"Messages of the journey {journey!r} cannot be out of scope")
        for reason in reasons:
            if reason not in self.policy.reasons:
                raise LabelNotAllowedError(
                    f"Unknown reason {reason!r}", {"allowed": list(self.policy.reasons)}
                )

    def _overflow(self, bound: str, key: Key) -> Key:
        self._on_overflow(bound)
        return self._take(key)

    def _take(self, key: Key) -> Key:
        self._admitted.add(key)
        _, persona, version = key
        if contract.OTHER not in (persona, version):
            self._versions.setdefault(persona, set()).add(version)
        return key
