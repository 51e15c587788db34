"""How often a run saves its state: as often as it is told to, within a share of its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_OF_THE_TIME = 0.05
"""Share of a run's wall time that saving may take: ten thousand messages in flight take seconds."""


class SavingPace:
    """Says when the next save is due.

    What is saved when changes nothing but how much is done again after a stop; over a real link some of that
    cannot be done again, because a node keeps its last update alone.

    Parameters
    ----------
    every_merges : int
        Merges between two saves, >= 1; more where they would take over ``share``.
    merges : int
        At the beginning.
    share : float
        Of the run's wall time that saving may take.
    """

    def __init__(self, every_merges: int, *, merges: int, share: float = MOST_OF_THE_TIME) -> None:
        self._every, self._share = every_merges, share
        self._saved_at, self._not_before_s = merges, 0.0

    def is_due(self, merges: int) -> bool:
        """Say whether to save now; always before the first merge, when a profile or an assignment is new."""
        if merges - self._saved_at < self._every and merges:
            return False
        return not merges or time.monotonic() >= self._not_before_s

    @contextmanager
    def saving(self, merges: int) -> Iterator[None]:
        """Note that a block saves, and how long that takes."""
        began_s = time.monotonic()
        yield
        now_s = time.monotonic()
        self._saved_at = merges
        self._not_before_s = now_s + (now_s - began_s) / self._share
