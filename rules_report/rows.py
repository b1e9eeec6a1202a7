"""One figure of the report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """A measured value beside its goal; `at` says on which side of the goal it should lie."""

    name: str
    value: float
    unit: str
    at: Literal["most", "least"]
    goal: float

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.at == "most" else self.value >= self.goal
