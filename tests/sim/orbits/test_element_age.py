"""How far passes drift as elements grow old: the reason for the notice of `sim.plans.from_orbits`."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from sim.orbits.elements import parse_tle
from sim.orbits.orbit import Satellite
from sim.population import Cluster
from sim.windows.finder import find_windows

DAY = dt.datetime(2026, 8, 20, tzinfo=dt.UTC)
SITES = [
    Cluster(name="north", latitude_deg=52.0, longitude_deg=0.0, elevation_mask_deg=25.0),
    Cluster(name="south", latitude_deg=-34.0, longitude_deg=151.0, elevation_mask_deg=25.0),
]


def elements(path: Path, before: dt.datetime, numbers: set[int]) -> dict[int, Satellite]:
    """Return, for each satellite, its newest elements of before an instant."""
    parquet = pytest.importorskip("pyarrow.parquet")
    newest: dict[int, Satellite] = {}
    for row in parquet.read_table(path).to_pylist():
        if row["norad"] in numbers:
            (satellite,) = parse_tle(f"{row['line1']}\n{row['line2']}")
            held = newest.get(row["norad"])
            if satellite.epoch < before and (held is None or satellite.epoch > held.epoch):
                newest[row["norad"]] = satellite
    return newest


def test_three_days_of_age_move_a_rise_by_seconds_and_lose_some_passes(shared_data: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = shared_data / "orbits/celestrak_2026-08-22/starlink_history_400sats_26days.parquet"
    numbers = set(sorted(pandas.read_parquet(path, columns=["norad"])["norad"].unique())[::10])
    fresh, old = (elements(path, DAY - dt.timedelta(days=age), numbers) for age in (0, 3))
    both = sorted(fresh.keys() & old.keys())
    assert len(both) >= 30
    actual, planned = (
        find_windows([held[number] for number in both], SITES, start=DAY, span_s=86_400.0)
        for held in (fresh, old)
    )
    errors_s, lost = [], 0
    for window in actual:
        near = [
            abs(other.rise_s - window.rise_s)
            for other in planned
            if (other.satellite, other.site) == (window.satellite, window.site)
        ]
        if near and min(near) < 300.0:
            errors_s.append(min(near))
        else:
            lost += 1
    # tle_ageing_starlink_2026-08.csv, 393 satellites: median 2.2 s and 9.4 % lost after three days.
    assert 0.5 < float(np.median(errors_s)) < 6.0
    assert lost < 0.2 * len(actual)
