"""When bytes that are sent one after another are across, at the rates of a contact plan."""

import numpy as np

from sim.grid.capacity import Capacity

SEGMENT_BYTES = 1400
"""Of a lost part that is sent again: what a TCP segment carries on a link of 1,500 bytes a packet, about."""


class Crossing:
    """One direction of a cluster's link: it carries one byte after another, and nothing between contacts.

    Parameters
    ----------
    capacity : Capacity
        What the link carries by a time if it is always full.
    loss : float
        Part of the segments that are lost, in [0, 1); each is sent again, and takes its room again.
    rng : Generator
        Draws which.
    """

    def __init__(self, capacity: Capacity, loss: float, rng: np.random.Generator) -> None:
        self._capacity, self._loss, self._rng = capacity, loss, rng
        self._taken = 0.0  # of the cumulative capacity

    def across_s(self, now_s: float, num_bytes: int) -> float:
        """Send bytes behind all that were sent before, and return when they are across.

        Parameters
        ----------
        now_s : float
            When they are there to be sent, seconds of the plan.
        num_bytes : int
            > 0.

        Returns
        -------
        float
            Seconds of the plan, always inside a contact (its set included); infinity if never.
        """
        segments = -(-num_bytes // SEGMENT_BYTES)
        again = int(self._rng.negative_binomial(segments, 1.0 - self._loss)) if self._loss else 0
        self._taken = max(self._taken, self._capacity.bytes_at(now_s)) + num_bytes + again * SEGMENT_BYTES
        return max(now_s, self._capacity.time_of(self._taken))
