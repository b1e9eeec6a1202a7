"""What is past a bound is counted under `other`; what comes from an allow-list is refused past it."""

import pytest

from exporter.errors import InvalidRequestError, LabelNotAllowedError
from exporter.limits import JourneyPolicy, Limits, Policy
from exporter.storage.series import Key

POLICY = Policy(
    {"chat": JourneyPolicy(out_of_scope=True), "guidance": JourneyPolicy()}, ("timeout",), 2, 2, max_series=5
)


@pytest.fixture
def overflows() -> list[str]:
    """The bounds that were reached, as they were."""
    return []


@pytest.fixture
def limits(overflows: list[str]) -> Limits:
    return Limits(POLICY, overflows.append)


def test_a_persona_past_the_bound_is_counted_under_other(limits: Limits, overflows: list[str]) -> None:
    admitted = [limits.admit(("chat", persona, "1")) for persona in "abca"]
    assert admitted == [("chat", persona, "1") for persona in "ab"] + [
        ("chat", "other", "other"),
        ("chat", "a", "1"),
    ]
    assert overflows == ["persona_overflow"]


def test_a_version_past_the_bound_is_counted_under_other_of_its_persona(
    limits: Limits, overflows: list[str]
) -> None:
    admitted = [limits.admit(("chat", "a", version)) for version in "1231"]
    assert [version for _, _, version in admitted] == ["1", "2", "other", "1"]
    assert overflows == ["version_overflow"]


def test_past_the_total_known_label_sets_go_on_and_new_ones_are_other(
    limits: Limits, overflows: list[str]
) -> None:
    keys = [(journey, persona, v) for journey in ("chat", "guidance") for persona in "ab" for v in "12"]
    for _ in range(2):
        assert [limits.admit(key) for key in keys] == keys[:5] + [("guidance", "other", "other")] * 3
    assert overflows == ["series_overflow"] * 6


def test_what_is_forgotten_makes_room(limits: Limits) -> None:
    keys: list[Key] = [("chat", persona, "1") for persona in "ab"]
    for key in keys:
        limits.admit(key)
    limits.reset(keys[1:])
    assert limits.admit(("chat", "c", "1")) == ("chat", "c", "1")
    assert limits.admit(("chat", "d", "1")) == ("chat", "other", "other")


def test_a_lower_bound_holds_for_what_is_new(limits: Limits) -> None:
    keys: list[Key] = [("chat", "a", version) for version in "12"]
    assert [limits.admit(key) for key in keys] == keys
    limits.change(Policy(max_versions_per_persona=1))
    assert [limits.admit(key) for key in keys] == keys
    assert limits.admit(("chat", "a", "3")) == ("chat", "a", "other")


@pytest.mark.parametrize(
    ("journey", "out_of_scope", "reasons", "refusal"),
    [
        ("chat", 1, ["timeout"], None),
        ("guidance", 0, [], None),
        ("guidance", 1, [], InvalidRequestError),
        ("moon", 0, [], LabelNotAllowedError),
        ("chat", 0, ["timeout", "moon"], LabelNotAllowedError),
    ],
)
def test_journeys_and_reasons_come_from_the_policy(
    limits: Limits, journey: str, out_of_scope: int, reasons: list[str], refusal: type[Exception] | None
) -> None:
    if refusal is None:
        limits.check(journey, out_of_scope, reasons)
    else:
        with pytest.raises(refusal):
            limits.check(journey, out_of_scope, reasons)
