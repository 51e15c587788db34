"""From windows of constant rate, one for each satellite and direction, to the contacts of a cluster.

Other tools' files know windows between two nodes; a contact of ours serves both directions and joins the
satellites: at any time the best rate, as `sim.plans.best_rate` does for computed passes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sim.plans.plan import Contact, Direction


class Piece(NamedTuple):
    """A window of constant rate, and where it was read."""

    where: str
    start_s: float
    stop_s: float
    satellite: str
    direction: Direction
    bytes_per_s: float


class Delay(NamedTuple):
    """A window of constant one-way light time."""

    start_s: float
    stop_s: float
    delay_s: float


def overlaps(pieces: Sequence[Piece]) -> list[str]:
    """Return a fault for each piece that overlaps another of the same satellite and direction."""
    faults = []
    by_link = sorted(pieces, key=lambda piece: (piece.satellite, piece.direction, piece.start_s))
    for early, late in pairwise(by_link):
        same_link = (early.satellite, early.direction) == (late.satellite, late.direction)
        if same_link and late.start_s < early.stop_s:
            faults.append(
                f"{late.where}: begins at {late.start_s} s, before the window of {early.where} between the"
                f" same two nodes ends at {early.stop_s} s; windows must not overlap"
            )
    return faults


def join_pieces(pieces: Sequence[Piece], delays: Sequence[Delay]) -> tuple[Contact, ...]:
    """Return the contacts of one cluster: windows that touch or overlap become one.

    Parameters
    ----------
    pieces : Sequence[Piece]
        Any order; of one cluster; those of one satellite and direction do not overlap.
    delays : Sequence[Delay]
        A contact's delay is their mean over the time they share with it; 0 without any.
    """
    edges = sorted({time_s for piece in pieces for time_s in (piece.start_s, piece.stop_s)})
    waiting = sorted(pieces, key=lambda piece: piece.start_s, reverse=True)
    active: list[Piece] = []
    runs: list[list[tuple[float, float, list[Piece]]]] = [[]]
    for start_s, stop_s in pairwise(edges):
        active = [piece for piece in active if piece.stop_s > start_s]
        while waiting and waiting[-1].start_s <= start_s:
            active.append(waiting.pop())
        if active:
            runs[-1].append((start_s, stop_s, list(active)))
        elif runs[-1]:
            runs.append([])
    return tuple(_contact(run, delays) for run in runs if run)


def _contact(run: list[tuple[float, float, list[Piece]]], delays: Sequence[Delay]) -> Contact:
    """Return the contact of intervals that touch, each with the pieces active in it."""
    knots: list[tuple[float, float, float]] = []
    for start_s, stop_s, active in run:
        down, up = (
            max((piece.bytes_per_s for piece in active if piece.direction == direction), default=0.0)
            for direction in ("down", "up")
        )
        if knots and knots[-1][1:] == (down, up):
            knots.pop()  # the rates go on: no knot needed
        else:
            knots.append((start_s, down, up))
        knots.append((stop_s, down, up))
    time_s, down_K, up_K = np.array(knots).T
    satellites = dict.fromkeys(piece.satellite for _, _, active in run for piece in active)
    return Contact(
        rise_s=run[0][0],
        set_s=run[-1][1],
        satellites=tuple(satellites),
        time_s=time_s,
        down_bytes_per_s=down_K,
        up_bytes_per_s=up_K,
        delay_s=_mean_delay_s(run[0][0], run[-1][1], delays),
    )


def _mean_delay_s(rise_s: float, set_s: float, delays: Sequence[Delay]) -> float:
    """Return the mean delay over the time the delays share with a contact."""
    shared = [
        (min(delay.stop_s, set_s) - max(delay.start_s, rise_s), delay.delay_s)
        for delay in delays
        if delay.start_s < set_s and delay.stop_s > rise_s
    ]
    if len({delay_s for _, delay_s in shared}) == 1:
        return shared[0][1]  # exact
    total_s = sum(weight_s for weight_s, _ in shared)
    return sum(weight_s * delay_s for weight_s, delay_s in shared) / total_s if shared else 0.0
