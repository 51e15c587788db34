"""Bytes a link has carried up to a time, and when a given byte crosses: exact both ways."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt

import numpy as np

from sim.plans.plan import Contact, Direction


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Bytes a cluster's link has carried by a time if always full, and the exact inverse.

    Parameters
    ----------
    contacts : tuple[Contact, ...]
        Sorted and disjoint, as in `ContactPlan`.
    direction : {"down", "up"}
        Which of the two rates.
    """

    contacts: tuple[Contact, ...]
    direction: Direction

    @cached_property
    def _knots(self) -> tuple[list[float], list[float], list[float]]:
        """Return times, rates and cumulative bytes at all knots; lists, because bisect is fast on them."""
        if not self.contacts:
            return [], [], []
        time_K = np.concatenate([contact.time_s for contact in self.contacts])
        rate_K = np.concatenate([contact.rates(self.direction) for contact in self.contacts])
        step_K = np.diff(time_K) * (rate_K[1:] + rate_K[:-1]) / 2
        step_K[np.cumsum([contact.time_s.size for contact in self.contacts])[:-1] - 1] = 0.0  # the gaps
        return time_K.tolist(), rate_K.tolist(), np.concatenate([[0.0], np.cumsum(step_K)]).tolist()

    @cached_property
    def at_set_bytes(self) -> list[float]:
        """Cumulative bytes at the set of each contact, non-decreasing."""
        ends = np.cumsum([contact.time_s.size for contact in self.contacts], dtype=int) - 1
        return [self._knots[2][end] for end in ends.tolist()]

    @cached_property
    def set_s(self) -> list[float]:
        """Set of each contact, seconds."""
        return [contact.set_s for contact in self.contacts]

    @property
    def total_bytes(self) -> float:
        """All the bytes of all contacts."""
        return self.at_set_bytes[-1] if self.contacts else 0.0

    def bytes_at(self, time_s: float) -> float:
        """Return the cumulative bytes at a time, non-decreasing, constant between contacts."""
        times, rates, totals = self._knots
        index = bisect_right(times, time_s) - 1
        if index < 0:
            return 0.0
        if index == len(times) - 1 or totals[index + 1] == totals[index]:
            return totals[index]
        elapsed_s = time_s - times[index]
        slope = (rates[index + 1] - rates[index]) / (times[index + 1] - times[index])
        return min(totals[index] + elapsed_s * (rates[index] + slope * elapsed_s / 2), totals[index + 1])

    def time_of(self, total_bytes: float) -> float:
        """Return the first time by which so many cumulative bytes have crossed.

        The exact root of the quadratic between two knots, in the form that does not cancel.

        Parameters
        ----------
        total_bytes : float
            Cumulative bytes, > 0.

        Returns
        -------
        float
            Seconds, always inside a contact (its set included); infinity if never.
        """
        times, rates, totals = self._knots
        index = bisect_left(totals, total_bytes)
        if index >= len(totals):
            return inf
        if index == 0:
            return times[0]
        missing_bytes = total_bytes - totals[index - 1]
        rate, step_s = rates[index - 1], times[index] - times[index - 1]
        slope = (rates[index] - rate) / step_s
        root = sqrt(max(rate * rate + 2 * slope * missing_bytes, 0.0))
        return min(times[index - 1] + 2 * missing_bytes / (rate + root), times[index])
