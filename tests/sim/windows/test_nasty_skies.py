"""Skies that break careless window finders: GEO, HEO, passes shorter than the step, spans that cut a pass."""

import datetime as dt
from itertools import pairwise

import numpy as np
import pytest

from sim.orbits.orbit import Satellite
from sim.orbits.walker import walker
from sim.population import Cluster
from sim.windows.finder import (
    find_windows,
)
from tests.sim.windows.windows import (
    DAY_S,
    EPOCH,
    TRUTH_START,
    elevations_deg,
    geostationary,
    nasty_skies,
    site,
)


def test_a_geostationary_satellite_is_one_window_as_long_as_the_span() -> None:
    (window,) = find_windows(geostationary(20.0), [site(10.0, 20.0, 20.0)], start=EPOCH, span_s=DAY_S)
    assert (window.rise_s, window.set_s) == (0.0, DAY_S)
    assert window.rise_clipped
    assert window.set_clipped
    # Elevation of a geostationary satellite 10 deg of latitude away: 78.2 deg, worked by hand.
    assert window.max_elevation_deg == pytest.approx(78.2, abs=0.3)


def test_a_geostationary_satellite_over_the_other_side_is_never_seen() -> None:
    assert find_windows(geostationary(-160.0), [site(10.0, 20.0, 0.0)], start=EPOCH, span_s=DAY_S) == ()


def brute_force(satellite: Satellite, here: Cluster, start: dt.datetime, span_s: float) -> np.ndarray:
    """Return a [N, 2] list of windows at 1 s sampling with linear interpolation."""
    time_s = np.arange(0.0, span_s + 1.0)
    above = elevations_deg(satellite, here, start, time_s) - here.elevation_mask_deg
    sign = above >= 0.0
    edges = np.flatnonzero(sign[1:] != sign[:-1])
    crossing_s = time_s[edges] + above[edges] / (above[edges] - above[edges + 1])
    if sign[0]:
        crossing_s = np.concatenate([[0.0], crossing_s])
    if sign[-1]:
        crossing_s = np.concatenate([crossing_s, [span_s]])
    pairs: np.ndarray = crossing_s.reshape(-1, 2)
    return pairs


@pytest.mark.parametrize("name", [sky[0] for sky in nasty_skies()])
def test_nasty_skies_agree_with_brute_force(name: str) -> None:
    _, satellite, here, start = next(sky for sky in nasty_skies() if sky[0] == name)
    span_s = 3.0 * DAY_S if "leo high" in name else DAY_S
    found = find_windows([satellite], [here], start=start, span_s=span_s)
    expected = brute_force(satellite, here, start, span_s)
    assert len(found) == len(expected) > 0
    for window, (rise_s, set_s) in zip(found, expected, strict=True):
        assert window.rise_s == pytest.approx(rise_s, abs=0.5 if "heo" in name else 0.05)
        assert window.set_s == pytest.approx(set_s, abs=0.5 if "heo" in name else 0.05)


def test_a_pass_shorter_than_the_step_is_found() -> None:
    satellite = walker(total=1, planes=1, phasing=0, inclination_deg=51, altitude_km=500, epoch=EPOCH)
    windows = find_windows(satellite, [site(40.0, 0.0, 10.0)], start=EPOCH, span_s=5 * DAY_S)
    peak = max(windows, key=lambda w: w.max_elevation_deg)
    # Raise the mask to just below that peak: what is left of the pass lasts seconds.
    high = site(40.0, 0.0, peak.max_elevation_deg - 0.05)
    short = find_windows(satellite, [high], start=EPOCH, span_s=5 * DAY_S)
    assert len(short) == 1
    assert 0.0 < short[0].set_s - short[0].rise_s < 60.0
    assert peak.rise_s < short[0].rise_s < short[0].set_s < peak.set_s


def test_a_dip_below_the_mask_shorter_than_the_step_splits_the_pass() -> None:
    heo = nasty_skies()[1][1]
    time_s = np.arange(0.0, DAY_S)
    here = site(-0.1, 30.0, 5.0)
    elevation_deg = elevations_deg(heo, here, TRUTH_START, time_s)
    low = 1 + np.flatnonzero(
        (np.diff(elevation_deg)[:-1] < 0.0) & (np.diff(elevation_deg)[1:] > 0.0) & (elevation_deg[1:-1] > 5.0)
    )
    # Lay the dip into the middle of a grid step, and the mask where the dip lasts 24 s.
    bottom = int(low[0])
    start = TRUTH_START + dt.timedelta(seconds=(bottom % 60) - 30.0)
    mask_deg = float(elevation_deg[bottom - 12])
    whole, split = (
        find_windows([heo], [site(-0.1, 30.0, mask)], start=start, span_s=DAY_S)
        for mask in (elevation_deg[bottom] - 0.01, mask_deg)
    )
    assert len(split) == len(whole) + 1
    gaps_s = [later.rise_s - earlier.set_s for earlier, later in pairwise(split)]
    assert min(gaps_s) == pytest.approx(24.0, abs=2.0)


def test_a_span_that_starts_and_ends_mid_pass_clips_the_window() -> None:
    satellite = walker(total=1, planes=1, phasing=0, inclination_deg=51, altitude_km=500, epoch=EPOCH)
    here = site(40.0, 0.0, 10.0)
    whole = max(find_windows(satellite, [here], start=EPOCH, span_s=DAY_S), key=lambda w: w.set_s - w.rise_s)
    middle_s = 0.5 * (whole.rise_s + whole.set_s)
    (late,) = find_windows(satellite, [here], start=EPOCH + dt.timedelta(seconds=middle_s), span_s=2_000.0)
    assert late.rise_clipped
    assert not late.set_clipped
    assert late.rise_s == 0.0
    assert late.set_s == pytest.approx(whole.set_s - middle_s, abs=1e-3)
    early = find_windows(satellite, [here], start=EPOCH, span_s=middle_s)[-1]
    assert early.set_clipped
    assert early.set_s == middle_s
    assert early.rise_s == pytest.approx(whole.rise_s, abs=1e-3)
