"""Until when a satellite can be propagated: SGP4 goes on with numbers after a satellite has burned up.

It reports an error where its own formulas break, not where their result is impossible: with strong drag its
mean orbit shrinks through the Earth's centre and grows again on the other side, without an error and for
ever. So a satellite is believed from its epoch on (or back) as long as every state is one of an orbit.
"""

import datetime as dt
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.orbits.orbit import (
    EARTH_RADIUS_KM,
    EARTH_RATE_RAD_PER_S,
    MU_KM3_PER_S2,
    Ephemeris,
    FloatArray,
    Satellite,
    error_text,
    propagate,
)

# No satellite comes back from there: at 120 km crewed flights enter the atmosphere, at 80 meteors glow.
LOWEST_KM = 80.0
_FLATTENING = 1.0 / 298.257223563  # WGS84
# Short-period terms move the osculating axis by less than a tenth, drag only shrinks it.
_LARGEST_AXIS_RATIO = 1.25
# Of neighbouring times between the epoch and the span. Drag enters SGP4 with the fourth power of time at
# most, so that after a decay the states stay impossible until 2.8 times its time for an axis of 6,700 km,
# 1.3 times for one of four Earth radii: no such stretch is stepped over.
_RATIO = 1.25
_SHORTEST_S = 60.0


class Reach(NamedTuple):
    """The part ``[first, stop)`` of a time grid in which a satellite is in orbit, and why not in the rest."""

    first: int
    stop: int
    reason: str = ""


def reaches(
    satellites: Sequence[Satellite], states: Ephemeris, start: dt.datetime, time_s: FloatArray
) -> list[Reach]:
    """Return in which part of the grid each satellite can be believed to be in orbit.

    Parameters
    ----------
    satellites : Sequence[Satellite]
        S of them.
    states : Ephemeris
        Their states at the grid's times.
    start : datetime
        What the times count from.
    time_s : float64 [T]
        The grid, ascending.

    Returns
    -------
    list[Reach]
        One a satellite: the whole grid where nothing is wrong. An epoch inside the grid divides it: from it
        on until the first impossible state, before it back to the last one.
    """
    impossible_ST = impossible(satellites, states)
    epochs_s = [(satellite.epoch - start).total_seconds() for satellite in satellites]
    reach = []
    for row, (satellite, epoch_s) in enumerate(zip(satellites, epochs_s, strict=True)):
        lost_at_s = _lost_between(satellite, start, epoch_s, time_s)
        if lost_at_s is not None:
            reach.append(Reach(0, 0, _reason(satellite, start, lost_at_s)))
            continue
        first, stop, at = 0, len(time_s), None
        if impossible_ST[row].any():
            lost = np.flatnonzero(impossible_ST[row])
            before, after = lost[time_s[lost] < epoch_s], lost[time_s[lost] >= epoch_s]
            if len(before):
                first, at = int(before[-1]) + 1, float(time_s[before[-1]])
            if len(after):
                stop, at = int(after[0]), float(time_s[after[0]])
        reason = "" if at is None else _reason(satellite, start, at)
        if satellite.decay is not None:
            decay_s = (satellite.decay - start).total_seconds()
            if (gone := int(np.searchsorted(time_s, decay_s))) < stop:
                stop, reason = gone, f"it decayed on {satellite.decay:%Y-%m-%d}, as its elements say"
        reach.append(Reach(first, max(first, stop), reason))
    return reach


def impossible(satellites: Sequence[Satellite], states: Ephemeris) -> NDArray[np.bool_]:
    """Tell which states are no orbit: an error, below 80 km, or with an energy that drag cannot give.

    Parameters
    ----------
    satellites : Sequence[Satellite]
        S of them, for the axes of their elements.
    states : Ephemeris
        [S, T] Earth-fixed states.

    Returns
    -------
    bool [S, T]
    """
    with np.errstate(all="ignore"):
        x, y, z = np.moveaxis(states.position_km, 2, 0)
        square = np.einsum("stc,stc->st", states.position_km, states.position_km)
        radius_km = np.sqrt(square)
        ground_km = EARTH_RADIUS_KM * (1.0 - _FLATTENING * z * z / square)
        # Back to a frame that does not turn: add omega x r.
        u, v, w = np.moveaxis(states.velocity_km_per_s, 2, 0)
        speed_square = (u - EARTH_RATE_RAD_PER_S * y) ** 2 + (v + EARTH_RATE_RAD_PER_S * x) ** 2 + w * w
        inverse_axis = 2.0 / radius_km - speed_square / MU_KM3_PER_S2  # negative where it escapes
        axes_km = np.array([_axis_km(satellite) for satellite in satellites])
        possible = (radius_km - ground_km >= LOWEST_KM) & (
            inverse_axis * axes_km[:, None] >= 1.0 / _LARGEST_AXIS_RATIO
        )
    result: NDArray[np.bool_] = (states.error != 0) | ~possible  # NaN is not possible
    return result


def _axis_km(satellite: Satellite) -> float:
    """Return the semi-major axis of the mean motion."""
    rate = satellite.record.no_kozai / 60.0
    return float((MU_KM3_PER_S2 / rate**2) ** (1.0 / 3.0))


def _lost_between(
    satellite: Satellite, start: dt.datetime, epoch_s: float, time_s: FloatArray
) -> float | None:
    """Return when a satellite was lost between its epoch and the grid, or None where it was not.

    The times grow evenly in their logarithm, see ``_RATIO``.
    """
    gap_s = min(max(epoch_s, float(time_s[0])), float(time_s[-1])) - epoch_s
    if abs(gap_s) <= _SHORTEST_S or not _may_decay(satellite, gap_s):
        return None
    count = math.ceil(math.log(abs(gap_s) / _SHORTEST_S) / math.log(_RATIO)) + 1
    after_s = epoch_s + math.copysign(1.0, gap_s) * np.geomspace(_SHORTEST_S, abs(gap_s), count)
    lost = np.flatnonzero(impossible([satellite], propagate([satellite], start, after_s))[0])
    return float(after_s[lost[0]]) if len(lost) else None


def _may_decay(satellite: Satellite, gap_s: float) -> bool:
    """Tell whether drag may bring a satellite down in a gap: most need not be looked at more closely.

    With a drag term above zero the mean axis only shrinks, up to where SGP4 turns it round; so one that has
    shrunk by less than a tenth, and has not come near the ground, never was there. Half the gap is looked at
    too: what has come round to its first size by the end is a fourth smaller there, or more.
    """
    record = satellite.record
    if satellite.model != "sgp4" or record.bstar == 0.0:
        return False
    if record.bstar < 0.0:
        return True
    for minutes in (gap_s / 120.0, gap_s / 60.0):
        error, *_ = record.sgp4_tsince(minutes)
        perigee_km = _axis_km(satellite) * (1.0 - record.ecco) * record.am / record.a
        is_steady = 0.9 < record.am / record.a < 1.01
        if error or not is_steady or perigee_km < EARTH_RADIUS_KM + 2.0 * LOWEST_KM:
            return True
    return False


def _reason(satellite: Satellite, start: dt.datetime, at_s: float) -> str:
    """Say what is impossible about a satellite at a time."""
    states = propagate([satellite], start, np.array([at_s]))
    instant = start + dt.timedelta(seconds=at_s)
    radius_km = float(np.linalg.norm(states.position_km[0, 0]))
    code = int(states.error[0, 0])
    if code:
        what = error_text(code)
    elif radius_km < EARTH_RADIUS_KM + 2.0 * LOWEST_KM:
        what = f"it has decayed, it would be {radius_km:,.0f} km from the Earth's centre"
    else:
        what = f"its energy is impossible, {radius_km:,.0f} km from the Earth's centre"
    what = f"{what} at {instant:%Y-%m-%dT%H:%MZ}"
    return f"{what}; its elements are of {satellite.epoch:%Y-%m-%d}"
