"""One row of the table that `make bench` prints."""

from typing import Literal, NamedTuple


class Row(NamedTuple):
    """A figure of ours beside a peer's, measured in the same run.

    `ratio` is ours / peer. `met` says whether the ratio (or, where there is no peer, `ours`) reaches `goal`,
    which is given as text, for instance `<= 0.15`.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    goal: str
    met: bool
    note: str = ""
    """Conditions that a reader needs, and, where the goal is missed, the reason."""


def compare(
    name: str, ours: float, peer: float, unit: str, relation: Literal["<=", ">="], goal: float, note: str = ""
) -> Row:
    """A row whose goal is a bound on ours / peer."""
    ratio = ours / peer
    return Row(name, ours, peer, unit, ratio, f"{relation} {goal:.3g}", _holds(ratio, relation, goal), note)


def absolute(
    name: str, ours: float, unit: str, relation: Literal["<=", ">="], goal: float, note: str = ""
) -> Row:
    """A row without a peer, whose goal is a bound on our own figure."""
    return Row(name, ours, None, unit, None, f"{relation} {goal:,.0f}", _holds(ours, relation, goal), note)


def _holds(value: float, relation: Literal["<=", ">="], goal: float) -> bool:
    return value <= goal if relation == "<=" else value >= goal
