"""From the passes of many satellites to the contacts of one cluster: at any moment the best rate."""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.orbits.orbit import Satellite, propagate
from sim.plans.link import Link
from sim.plans.plan import Contact

FloatArray = NDArray[np.float64]


class Pass(NamedTuple):
    """One satellite over the cluster."""

    satellite: Satellite
    rise_s: float
    set_s: float
    wait_s: float = 0.0  # until the satellite can pass on what it was given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """One contact before its rates are known.

    The time between neighbouring edges (any rise or set) is a piece with its own knots, both ends
    included: at an edge the best satellite may change, and the rate jump.
    """

    site: int
    passes: tuple[Pass, ...]
    edges_s: FloatArray  # [E], ascending
    first: NDArray[np.int64]  # [E], the first knot of each piece, and the number of knots
    time_s: FloatArray  # [K]
    nearest_km: FloatArray  # [K], of the nearest satellite in contact; filled in later


def merge_passes(
    passes: Sequence[Sequence[Pass]],
    *,
    sites_km: FloatArray,
    link: Link,
    start: dt.datetime,
    ut1_utc_s: float = 0.0,
    knot_s: float = 10.0,
) -> list[tuple[Contact, ...]]:
    """Return the contacts of each cluster: the union of its passes, each moment at the best rate.

    Parameters
    ----------
    passes : Sequence[Sequence[Pass]]
        Per cluster, in any order; they may overlap.
    sites_km : float64 [cluster, 3]
        Earth-fixed positions of the clusters.
    link : Link
        Up and down take the best satellite separately; the rates fall with distance, so it is the same.
    start : datetime
        What the times count from.
    ut1_utc_s : float
        As in `sim.orbits.orbit.propagate`.
    knot_s : float
        Largest distance of knots; where neither rate changes, knots are dropped.

    Returns
    -------
    list[tuple[Contact, ...]]
        Per cluster, sorted and disjoint. The delay is that of the mean distance of the nearest satellite
        and the mean wait of its passes.
    """
    drafts = [_draft(site, group, knot_s) for site, own in enumerate(passes) for group in _overlapping(own)]
    _measure(drafts, sites_km, start, ut1_utc_s)
    contacts: list[list[Contact]] = [[] for _ in passes]
    for draft in drafts:
        contacts[draft.site].append(_contact(draft, link))
    return [tuple(own) for own in contacts]


def _overlapping(passes: Sequence[Pass]) -> list[list[Pass]]:
    """Put passes that overlap or touch together, in order of time."""
    groups: list[list[Pass]] = []
    until_s = -np.inf
    for each in sorted(passes, key=lambda one: (one.rise_s, one.set_s, one.satellite.name)):
        if each.rise_s > until_s:
            groups.append([])
        groups[-1].append(each)
        until_s = max(until_s, each.set_s)
    return groups


def _draft(site: int, group: Sequence[Pass], knot_s: float) -> _Draft:
    """Cut the contact at every rise and set, and each piece into even steps."""
    edges_s = np.unique([edge for each in group for edge in (each.rise_s, each.set_s)])
    pieces = [
        np.linspace(low, high, max(2, math.ceil((high - low) / knot_s) + 1))
        for low, high in pairwise(edges_s.tolist())
    ]
    time_s = np.concatenate(pieces)
    return _Draft(
        site=site,
        passes=tuple(group),
        edges_s=edges_s,
        first=np.cumsum([0, *(len(piece) for piece in pieces)]),
        time_s=time_s,
        nearest_km=np.full(len(time_s), np.inf),
    )


def _measure(drafts: Sequence[_Draft], sites_km: FloatArray, start: dt.datetime, ut1_utc_s: float) -> None:
    """Fill in the distance of the nearest satellite, with one propagation a satellite for all its passes."""
    satellites: dict[str, Satellite] = {}
    slices: dict[str, list[tuple[_Draft, slice]]] = {}
    for draft in drafts:
        for each in draft.passes:
            low, high = np.searchsorted(draft.edges_s, (each.rise_s, each.set_s))
            satellites[each.satellite.name] = each.satellite
            own = slice(int(draft.first[low]), int(draft.first[high]))
            slices.setdefault(each.satellite.name, []).append((draft, own))
    for name, asked in slices.items():
        time_s = np.concatenate([draft.time_s[own] for draft, own in asked])
        position_km = propagate([satellites[name]], start, time_s, ut1_utc_s=ut1_utc_s).position_km[0]
        done = 0
        for draft, own in asked:
            count = own.stop - own.start
            rho_km = position_km[done : done + count] - sites_km[draft.site]
            done += count
            range_km = np.sqrt(np.einsum("kc,kc->k", rho_km, rho_km))
            np.minimum(draft.nearest_km[own], range_km, out=draft.nearest_km[own])


def _contact(draft: _Draft, link: Link) -> Contact:
    """Turn distances into rates, and pieces into one line of knots."""
    time_s, rates = _join(
        draft, [link.down.bytes_per_s(draft.nearest_km), link.up.bytes_per_s(draft.nearest_km)]
    )
    return Contact(
        rise_s=float(time_s[0]),
        set_s=float(time_s[-1]),
        satellites=tuple(dict.fromkeys(each.satellite.name for each in draft.passes)),
        time_s=time_s,
        down_bytes_per_s=rates[0],
        up_bytes_per_s=rates[1],
        delay_s=link.delay_s(float(draft.nearest_km.mean())) + _mean_wait_s(draft.passes),
    )


def _mean_wait_s(passes: Sequence[Pass]) -> float:
    """Return the wait of the passes, longer ones counting for more; a contact has one delay."""
    lengths_s = [each.set_s - each.rise_s for each in passes]
    return sum(n * each.wait_s for n, each in zip(lengths_s, passes, strict=True)) / sum(lengths_s)


def _join(draft: _Draft, values: Sequence[FloatArray]) -> tuple[FloatArray, list[FloatArray]]:
    """Drop knots that say nothing: the second of two equal ends, and those on a level line.

    Where the rate jumps (the best satellite sets while a worse one stays), the time stays there twice.
    """
    keep = np.ones(len(draft.time_s), dtype=bool)
    right = draft.first[1:-1]
    left = right - 1
    equal = np.all([np.isclose(value[left], value[right], rtol=1e-9) for value in values], axis=0)
    keep[left[equal]] = False
    kept = np.flatnonzero(keep)
    same = np.all([value[kept][1:] == value[kept][:-1] for value in values], axis=0)
    kept = kept[np.concatenate([[True], ~(same[1:] & same[:-1]), [True]])]
    return draft.time_s[kept], [value[kept] for value in values]
