"""A satellite is seen until it has decayed, and from then on never again; the others keep their passes."""

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.orbits.elements import parse_tle
from sim.orbits.orbit import Satellite, propagate
from sim.plans.from_orbits import SkySettings, build_plan
from sim.plans.link import link_preset
from sim.population import Cluster
from sim.sites import default_clusters
from sim.windows.finder import LeftOut, find_windows
from tests.sim.orbits.elements_text import tle

DAY_S = 86_400.0
# Drag as of a last day in orbit. SGP4 reports an error from about 24 to 80 hours after the epoch, then none.
DYING = parse_tle(
    tle("DYING", number=321, epoch="26060.12000000", drag=" 45000-1", mean_motion="15.92000000")
)
GOOD = parse_tle(tle("GOOD", epoch="26060.12000000"))
EPOCH = DYING[0].epoch
SITES = [
    Cluster(name="north", latitude_deg=65.0, longitude_deg=20.0, elevation_mask_deg=0.0),
    Cluster(name="south", latitude_deg=-50.0, longitude_deg=-70.0, elevation_mask_deg=0.0),
]


def seen(
    satellites: tuple[Satellite, ...], start: dt.datetime, span_s: float = DAY_S
) -> tuple[dict[str, list[tuple[float, float]]], list[LeftOut]]:
    """Return rises and sets by satellite, and who was left out."""
    told: list[LeftOut] = []
    windows = find_windows(satellites, SITES, start=start, span_s=span_s, on_left_out=told.append)
    by_name: dict[str, list[tuple[float, float]]] = {satellite.name: [] for satellite in satellites}
    for window in windows:
        by_name[window.satellite].append((window.rise_s, window.set_s))
    return by_name, told


def test_sgp4_reports_no_error_where_the_satellite_would_be_beyond_the_sun() -> None:
    # What this file is about: without it, the premise of the others.
    states = propagate(DYING, EPOCH, np.array([4.0, 10.0, 60.0]) * DAY_S)
    radius_km = np.linalg.norm(states.position_km[0], axis=1)
    assert not states.error.any()
    assert radius_km[0] > 10_000.0
    assert radius_km[1] > 1e7


# From day 3.817 to 3.883 the states are possible orbits again, at 3.824 of the first one's size.
@pytest.mark.parametrize("days", [1.5, 3.3, 3.7, 3.824, 3.85, 4.0, 6.0, 10.0, 30.0])
def test_a_satellite_that_decayed_before_the_span_has_no_pass_and_the_others_all_of_theirs(
    days: float,
) -> None:
    start = EPOCH + dt.timedelta(days=days)
    passes, told = seen((*DYING, *GOOD), start)
    assert passes["DYING"] == []
    assert passes["GOOD"] == seen(GOOD, start)[0]["GOOD"] != []
    assert [(left.satellite, left.part) for left in told] == [("DYING", "")]
    assert "its elements are of 2026-03-01" in told[0].reason


def test_a_satellite_that_decays_in_the_span_keeps_the_passes_before() -> None:
    passes, told = seen((*DYING, *GOOD), EPOCH, 20.0 * DAY_S)
    (left,) = told
    end_s = float(left.part.removeprefix("from ").removesuffix(" s on"))
    assert 0.7 * DAY_S < end_s < 1.1 * DAY_S
    assert len(passes["DYING"]) > 5
    assert max(set_s for _, set_s in passes["DYING"]) <= end_s
    assert passes["GOOD"] == seen(GOOD, EPOCH, 20.0 * DAY_S)[0]["GOOD"]
    # The same passes as in a span that ends before.
    early = seen(DYING, EPOCH, 0.6 * DAY_S)[0]["DYING"]
    north = [rise_s for rise_s, _ in early][:2]
    assert [rise_s for rise_s, _ in passes["DYING"]][:2] == pytest.approx(north, abs=0.01)


def test_the_height_at_the_end_is_that_of_a_re_entry() -> None:
    _, (left,) = seen(DYING, EPOCH, 20.0 * DAY_S)
    end_s = float(left.part.removeprefix("from ").removesuffix(" s on"))
    states = propagate(DYING, EPOCH, np.array([end_s - 120.0, end_s + 60.0]))
    radius_km = np.linalg.norm(states.position_km[0], axis=1)
    assert 6_378.0 < radius_km[1] < 6_378.0 + 90.0
    assert radius_km[0] > 6_357.0 + 80.0


def test_before_its_epoch_a_satellite_is_seen_from_where_it_can_be_believed() -> None:
    passes, told = seen((*DYING, *GOOD), EPOCH - dt.timedelta(days=20), 20.5 * DAY_S)
    (left,) = told
    begin_s = float(left.part.removeprefix("before ").removesuffix(" s"))
    assert 0.0 < begin_s < 20.0 * DAY_S
    assert passes["DYING"]
    assert min(rise_s for rise_s, _ in passes["DYING"]) >= begin_s


@pytest.mark.parametrize("hours", [-5.0, 0.0, 10.25])
def test_a_satellite_is_left_out_from_the_date_its_catalogue_says_it_decayed(hours: float) -> None:
    start = EPOCH + dt.timedelta(days=1)
    gone = replace(GOOD[0], decay=start + dt.timedelta(hours=hours))
    whole, (left,) = seen(GOOD, start)[0]["GOOD"], seen((gone,), start)[1]
    kept = seen((gone,), start)[0]["GOOD"]
    end_s = max(hours, 0.0) * 3600.0
    assert [rise_s for rise_s, _ in kept] == pytest.approx([r for r, _ in whole if r < end_s], abs=0.01)
    assert all(set_s <= end_s for _, set_s in kept)
    assert left.part == (f"from {end_s:.0f} s on" if end_s else "")
    assert "decayed on 2026-03-0" in left.reason


def test_a_sky_without_any_satellite_is_refused_with_the_reasons_not_with_every_cluster(
    tmp_path: Path,
) -> None:
    file = tmp_path / "dying.tle"
    file.write_text(tle("DYING", epoch="26060.12000000", drag=" 45000-1", mean_motion="15.92000000"))
    sky = SkySettings(elements=str(file), start=EPOCH + dt.timedelta(days=10))
    with pytest.raises(ValueError, match="no satellite is in orbit in the span") as caught:
        build_plan(sky, default_clusters(8), link_preset("ka"), on_notice=lambda _: None)
    assert "satellite DYING is left out: " in str(caught.value)
    assert "Iqaluit" not in str(caught.value)


def test_the_plan_says_from_when_a_satellite_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "two.tle"
    file.write_text(
        tle("DYING", number=321, epoch="26060.12000000", drag=" 45000-1", mean_motion="15.92000000")
        + tle("GOOD", epoch="26060.12000000")
    )
    notes: list[str] = []
    sky = SkySettings(elements=str(file), start=EPOCH, span_s=2.0 * DAY_S)
    build_plan(sky, default_clusters(1), link_preset("ka"), on_notice=notes.append)
    assert any(re.match(r"satellite DYING is left out from \d+ s on: it has decayed", note) for note in notes)
