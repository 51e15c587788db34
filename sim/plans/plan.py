"""The contact plan: when each cluster can be reached, and how many bytes a second it carries then.

Times are seconds after the start of the scenario. Rates are bytes per second, piecewise linear between knots,
so that the bytes carried up to a time are piecewise quadratic and can be inverted exactly
(`sim.grid.capacity`).
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["down", "up"]
DIRECTIONS: tuple[Direction, Direction] = ("down", "up")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contact:
    """One interval in which a cluster is served, its satellites merged into one link.

    Parameters
    ----------
    rise_s, set_s : float
        The contact is ``[rise_s, set_s)``, seconds after the scenario's start, 0 <= rise_s < set_s.
    satellites : tuple[str, ...]
        Who serves, in order of first service; may be empty when a plan file does not say.
    time_s : NDArray
        [K] knots, ascending, from ``rise_s`` to ``set_s``, K >= 2; a time given twice is a jump of the rates.
    down_bytes_per_s, up_bytes_per_s : NDArray
        [K] rates at the knots, finite and >= 0, linear in between. Down is towards the ground.
    delay_s : float
        One-way light time, >= 0.

    Raises
    ------
    ValueError
        If a value breaks its rule above; all faults at once.
    """

    rise_s: float
    set_s: float
    satellites: tuple[str, ...]
    time_s: NDArray[np.float64]
    down_bytes_per_s: NDArray[np.float64]
    up_bytes_per_s: NDArray[np.float64]
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rise_s", "set_s", "delay_s"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("time_s", "down_bytes_per_s", "up_bytes_per_s"):
            knots_K = np.array(getattr(self, name), dtype=np.float64)
            knots_K.flags.writeable = False
            object.__setattr__(self, name, knots_K)
        object.__setattr__(self, "satellites", tuple(self.satellites))
        if faults := self._faults():
            raise ValueError(f"contact [{self.rise_s}, {self.set_s}) s: " + "; ".join(faults))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contact):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        """Return everything that makes two contacts the same one."""
        knots = (self.time_s.tobytes(), self.down_bytes_per_s.tobytes(), self.up_bytes_per_s.tobytes())
        return (self.rise_s, self.set_s, self.satellites, self.delay_s, *knots)

    def _faults(self) -> list[str]:
        """Return every broken rule in words."""
        faults = []
        if not (isfinite(self.rise_s) and isfinite(self.set_s) and 0 <= self.rise_s < self.set_s):
            faults.append("rise_s and set_s must be finite with 0 <= rise_s < set_s")
        if not (isfinite(self.delay_s) and self.delay_s >= 0):
            faults.append(f"delay_s must be finite and >= 0, got {self.delay_s}")
        shapes = (self.time_s.shape, self.down_bytes_per_s.shape, self.up_bytes_per_s.shape)
        if self.time_s.ndim != 1 or self.time_s.size < 2 or len(set(shapes)) > 1:
            return [*faults, f"time_s and both rates must be vectors of one length >= 2, got shapes {shapes}"]
        if not np.all(np.diff(self.time_s) >= 0):  # also catches NaN
            faults.append("time_s must ascend and hold no NaN")
        if self.time_s[0] != self.rise_s or self.time_s[-1] != self.set_s:
            ends = f"[{self.time_s[0]}, {self.time_s[-1]}]"
            faults.append(f"time_s must run from rise_s to set_s, it runs over {ends}")
        for direction in DIRECTIONS:
            rates_K = self.rates(direction)
            if not (np.all(np.isfinite(rates_K)) and np.all(rates_K >= 0)):
                faults.append(f"{direction}_bytes_per_s must be finite and >= 0, got {rates_K}")
        return faults

    def rates(self, direction: Direction) -> NDArray[np.float64]:
        """Return the [K] rates of one direction in bytes per second."""
        return self.down_bytes_per_s if direction == "down" else self.up_bytes_per_s

    def capacity_bytes(self, direction: Direction) -> float:
        """Return the bytes the contact carries, the exact integral of the rate.

        Parameters
        ----------
        direction : {"down", "up"}
            Towards the ground or from it.

        Returns
        -------
        float
            Bytes, >= 0.
        """
        return float(np.trapezoid(self.rates(direction), self.time_s))


@dataclass(frozen=True, kw_only=True)
class ContactPlan:
    """All contacts of all clusters up to a horizon.

    Parameters
    ----------
    horizon_s : float
        End of the scenario, seconds, > 0.
    contacts : Mapping[str, tuple[Contact, ...]]
        Per cluster, sorted by time, disjoint (one may begin where the last ended), inside ``[0, horizon_s]``.
        A cluster may have none.

    Raises
    ------
    ValueError
        If a rule above is broken; all faults at once, each with its cluster.
    """

    horizon_s: float
    contacts: Mapping[str, tuple[Contact, ...]]
    _rises: dict[str, list[float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        contacts = {cluster: tuple(its_contacts) for cluster, its_contacts in self.contacts.items()}
        object.__setattr__(self, "contacts", contacts)
        object.__setattr__(self, "horizon_s", float(self.horizon_s))
        if not (isfinite(self.horizon_s) and self.horizon_s > 0):
            raise ValueError(f"horizon_s of a contact plan must be finite and > 0, got {self.horizon_s}")
        if faults := [fault for cluster in contacts for fault in self._faults(cluster)]:
            raise ValueError("the contact plan is impossible: " + "; ".join(faults))
        object.__setattr__(self, "_rises", {name: [c.rise_s for c in its] for name, its in contacts.items()})

    def _faults(self, cluster: str) -> list[str]:
        """Return every broken rule of one cluster in words."""
        its_contacts = self.contacts[cluster]
        faults = [
            f"cluster {cluster!r} has a contact until {contact.set_s} s, past the horizon, {self.horizon_s} s"
            for contact in its_contacts
            if contact.set_s > self.horizon_s
        ]
        for earlier, later in pairwise(its_contacts):
            if later.rise_s < earlier.set_s:
                faults.append(
                    f"cluster {cluster!r} has contacts that overlap or are out of order: one sets at"
                    f" {earlier.set_s} s, the next rises at {later.rise_s} s"
                )
        return faults

    def _contacts_of(self, cluster: str) -> tuple[Contact, ...]:
        """Return a cluster's contacts, or say who is known."""
        try:
            return self.contacts[cluster]
        except KeyError:
            known = ", ".join(sorted(self.contacts)) or "none"
            raise ValueError(f"no cluster {cluster!r} in the contact plan; it knows: {known}") from None

    def next_rise_s(self, cluster: str, after_s: float) -> float | None:
        """Return the first rise strictly after a time.

        Parameters
        ----------
        cluster : str
            Name of the cluster.
        after_s : float
            Seconds after the scenario's start.

        Returns
        -------
        float or None
            The rise in seconds; None when the cluster is not seen again.

        Raises
        ------
        ValueError
            If the plan does not know the cluster.
        """
        its_contacts = self._contacts_of(cluster)
        index = bisect_right(self._rises[cluster], after_s)
        return its_contacts[index].rise_s if index < len(its_contacts) else None

    def contact_at(self, cluster: str, time_s: float) -> Contact | None:
        """Return the contact ``[rise_s, set_s)`` a time lies in, or None.

        Parameters and errors as `next_rise_s`.
        """
        its_contacts = self._contacts_of(cluster)
        index = bisect_right(self._rises[cluster], time_s) - 1
        return its_contacts[index] if index >= 0 and time_s < its_contacts[index].set_s else None
