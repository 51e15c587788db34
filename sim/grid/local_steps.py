"""How long a node trains between two contacts."""

from dataclasses import dataclass
from math import floor
from typing import Literal

Work = Literal["train", "query", "keep"]
"""What a message asks of a node: training; a query or an evaluation; or only to keep what it brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """How many local steps a node does before it answers.

    Parameters
    ----------
    min_steps, max_steps : int
        Bounds of a training, 1 <= min_steps <= max_steps.
    query_steps : int
        What a query or an evaluation takes, >= 1.

    Raises
    ------
    ValueError
        If a bound breaks its rule.
    """

    min_steps: int
    max_steps: int
    query_steps: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps or self.query_steps < 1:
            raise ValueError(
                "local steps must obey 1 <= min_steps <= max_steps and query_steps >= 1, got min_steps"
                f" {self.min_steps}, max_steps {self.max_steps}, query_steps {self.query_steps}"
            )

    def fixed_steps(self, work: Work) -> int:
        """Return the steps of work that does not fill a gap: what is only kept takes none."""
        return 0 if work == "keep" else self.query_steps

    def steps(self, work: Work, *, free_s: float, step_time_s: float) -> int:
        """Return the steps that fit into the ``free_s`` seconds until the next contact, within the bounds."""
        if work != "train":
            return self.fixed_steps(work)
        return min(max(floor(free_s / step_time_s), self.min_steps), self.max_steps)
