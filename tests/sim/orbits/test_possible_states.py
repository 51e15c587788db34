"""Which states are those of a satellite in orbit."""

import numpy as np
import pytest

from sim.orbits.decay import impossible
from sim.orbits.elements import parse_tle
from sim.orbits.orbit import Ephemeris
from tests.sim.orbits.elements_text import tle

LOW = parse_tle(tle(mean_motion="15.92000000"))  # an axis of 6,678 km


@pytest.mark.parametrize(
    ("radius_km", "speed_km_per_s", "is_orbit"),
    [
        (6_630.0, 7.753, True),  # circular, as the elements say
        (6_630.0, 8.6, False),  # an axis of 8,700 km: 1.3 times that of the elements
        (6_630.0, 11.2, False),  # it escapes
        (6_440.0, 7.9, False),  # 62 km above the equator
        (6_470.0, 7.85, True),
        (57e6, 0.1, False),
    ],
)
def test_a_state_is_that_of_an_orbit_or_not(radius_km: float, speed_km_per_s: float, is_orbit: bool) -> None:
    # On the equator, eastwards; relative to the Earth, which turns below.
    spin_km_per_s = 7.292115e-5 * radius_km
    states = Ephemeris(
        position_km=np.array([[[0.0, radius_km, 0.0]]]),
        velocity_km_per_s=np.array([[[spin_km_per_s - speed_km_per_s, 0.0, 0.0]]]),
        error=np.zeros((1, 1), dtype=np.uint8),
    )
    assert impossible(LOW, states)[0, 0] == (not is_orbit)
