"""Ground tracks of the satellites that serve a plan, for people to look at."""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.orbits.decay import impossible
from sim.orbits.orbit import Satellite, propagate
from sim.plans.plan import ContactPlan

# A low satellite goes 11 degrees in the longest step, which a great circle between two samples still follows.
_SHORTEST_STEP_S, _LONGEST_STEP_S = 60.0, 180.0
_MOST_SAMPLES = 6_000
_MOST_POINTS = 60_000
_MOST_SATELLITES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTracks:
    """Where satellites are over the ground, sampled.

    Parameters
    ----------
    satellites : tuple[str, ...]
        Those shown, the most seen first.
    num_satellites : int
        Of the whole sky.
    step_s : float
        Between two samples; the first is at 0.
    longitude_deg, latitude_deg : float64 [satellite, time]
        Geocentric; NaN where the elements give no place.
    """

    satellites: tuple[str, ...]
    num_satellites: int
    step_s: float
    longitude_deg: NDArray[np.float64]
    latitude_deg: NDArray[np.float64]


def ground_tracks(plan: ContactPlan, satellites: Sequence[Satellite], start: dt.datetime) -> GroundTracks:
    """Return the tracks of the satellites that serve a plan longest, as many as a page can show.

    At most 24 satellites, 60,000 points and 12.5 days; what is left out can be told from the result.
    """
    served_s: dict[str, float] = defaultdict(float)
    for contacts in plan.contacts.values():
        for contact in contacts:
            for name in contact.satellites:
                served_s[name] += contact.set_s - contact.rise_s
    step_s = min(max(plan.horizon_s / _MOST_SAMPLES, _SHORTEST_STEP_S), _LONGEST_STEP_S)
    time_s = np.arange(min(int(plan.horizon_s // step_s) + 2, _MOST_SAMPLES), dtype=np.float64) * step_s
    most = max(1, min(_MOST_SATELLITES, _MOST_POINTS // len(time_s)))
    shown = sorted(satellites, key=lambda satellite: -served_s[satellite.name])[:most]
    states = propagate(shown, start, time_s)
    x, y, z = np.moveaxis(np.where(impossible(shown, states)[..., None], np.nan, states.position_km), -1, 0)
    return GroundTracks(
        satellites=tuple(satellite.name for satellite in shown),
        num_satellites=len(satellites),
        step_s=step_s,
        longitude_deg=np.degrees(np.arctan2(y, x)),
        latitude_deg=np.degrees(np.arctan2(z, np.hypot(x, y))),
    )
