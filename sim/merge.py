"""From the passes of many satellites to the contacts of one cluster: at any moment the best rate."""

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.link import Link
from sim.orbit import Satellite, propagate
from sim.plan import Contact

FloatArray = NDArray[np.float64]

# A jump of the rate (the best satellite sets while a worse one stays) becomes a ramp this long.
_RAMP_S = 1e-3


class Pass(NamedTuple):
    """One satellite over the cluster."""

    satellite: Satellite
    rise_s: float
    set_s: float


class _Knots(NamedTuple):
    """Sampling times: segment by segment between edges, both ends of each segment included."""

    edges_s: FloatArray  # [E], every rise and set of the contact, ascending
    first: NDArray[np.int64]  # [E], index of the first knot of each segment, and the end
    time_s: FloatArray  # [K]


def merge_passes(
    passes: Sequence[Pass],
    *,
    site_km: FloatArray,
    link: Link,
    start: dt.datetime,
    ut1_utc_s: float = 0.0,
    knot_s: float = 10.0,
) -> tuple[Contact, ...]:
    """Return the contacts of one cluster: the union of its passes, each moment at the best rate.

    Parameters
    ----------
    passes : Sequence[Pass]
        In any order; they may overlap.
    site_km : float64 [3]
        Earth-fixed position of the cluster.
    link : Link
        Up and down take the best satellite separately; the rates fall with distance, so it is the same.
    start : datetime
        What the times count from.
    ut1_utc_s : float
        As in `sim.orbit.propagate`.
    knot_s : float
        Largest distance of knots; where neither rate changes, knots are dropped.

    Returns
    -------
    tuple[Contact, ...]
        Sorted and disjoint. The delay is that of the mean distance of the nearest satellite.
    """
    contacts = []
    for group in _group(sorted(passes, key=lambda each: (each.rise_s, each.set_s, each.satellite.name))):
        knots = _knots(group, knot_s)
        range_km = _nearest_km(group, knots, site_km, start, ut1_utc_s)
        time_s, rates = _join(knots, [link.down.bytes_per_s(range_km), link.up.bytes_per_s(range_km)])
        contacts.append(
            Contact(
                rise_s=float(time_s[0]),
                set_s=float(time_s[-1]),
                satellites=tuple(dict.fromkeys(each.satellite.name for each in group)),
                time_s=time_s,
                down_bytes_per_s=rates[0],
                up_bytes_per_s=rates[1],
                delay_s=link.delay_s(float(range_km.mean())),
            )
        )
    return tuple(contacts)


def _group(passes: Sequence[Pass]) -> list[list[Pass]]:
    """Put passes that overlap or touch together; the input is sorted by rise."""
    groups: list[list[Pass]] = []
    until_s = -np.inf
    for each in passes:
        if each.rise_s > until_s:
            groups.append([])
        groups[-1].append(each)
        until_s = max(until_s, each.set_s)
    return groups


def _knots(group: Sequence[Pass], knot_s: float) -> _Knots:
    """Cut the contact at every rise and set, and each piece into even steps."""
    edges_s = np.unique([edge for each in group for edge in (each.rise_s, each.set_s)])
    pieces = [
        np.linspace(low, high, max(2, int(np.ceil((high - low) / knot_s)) + 1))
        for low, high in pairwise(edges_s)
    ]
    first = np.cumsum([0, *(len(piece) for piece in pieces)])
    return _Knots(edges_s, first, np.concatenate(pieces))


def _nearest_km(
    group: Sequence[Pass], knots: _Knots, site_km: FloatArray, start: dt.datetime, ut1_utc_s: float
) -> FloatArray:
    """Return the distance of the nearest satellite in contact at each knot."""
    nearest_km = np.full(len(knots.time_s), np.inf)
    for each in group:
        low, high = np.searchsorted(knots.edges_s, (each.rise_s, each.set_s))
        own = slice(knots.first[low], knots.first[high])
        states = propagate([each.satellite], start, knots.time_s[own], ut1_utc_s=ut1_utc_s)
        range_km = np.linalg.norm(states.position_km[0] - site_km, axis=1)
        nearest_km[own] = np.minimum(nearest_km[own], range_km)
    return nearest_km


def _join(knots: _Knots, values: Sequence[FloatArray]) -> tuple[FloatArray, list[FloatArray]]:
    """Make the times strictly increasing: equal ends of neighbouring pieces become one knot, jumps a ramp."""
    time_s = knots.time_s.copy()
    keep = np.ones(len(time_s), dtype=bool)
    for right in knots.first[1:-1]:
        left = right - 1
        if all(np.isclose(value[left], value[right], rtol=1e-9) for value in values):
            keep[left] = False
        else:
            time_s[left] -= min(_RAMP_S, 0.25 * (time_s[left] - time_s[left - 1]))
    kept = np.flatnonzero(keep)
    same = np.all([value[kept][1:] == value[kept][:-1] for value in values], axis=0)
    kept = kept[np.concatenate([[True], ~(same[1:] & same[:-1]), [True]])]
    return time_s[kept], [value[kept] for value in values]
