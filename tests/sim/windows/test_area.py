import datetime as dt
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.orbits.walker import walker
from sim.plans.from_orbits import SkySettings, build_plan
from sim.plans.link import link_preset
from sim.population import Cluster
from sim.sites import default_clusters, read_sites
from sim.windows.area import common_windows, corners
from sim.windows.finder import find_window_table, find_windows

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY_S = 86_400.0


def angle_deg(one: Cluster, other: Cluster) -> float:
    """Central angle by unit vectors."""
    vectors = []
    for site in (one, other):
        latitude, longitude = math.radians(site.latitude_deg), math.radians(site.longitude_deg)
        vectors.append(
            np.array(
                [
                    math.cos(latitude) * math.cos(longitude),
                    math.cos(latitude) * math.sin(longitude),
                    math.sin(latitude),
                ]
            )
        )
    return math.degrees(math.acos(min(1.0, float(vectors[0] @ vectors[1]))))


@settings(max_examples=40, deadline=None)
@given(st.floats(-90.0, 90.0), st.floats(-180.0, 179.0), st.floats(1.0, 2000.0))
def test_the_corners_stand_around_the_circle(
    latitude_deg: float, longitude_deg: float, radius_km: float
) -> None:
    cluster = Cluster(
        name="area", latitude_deg=latitude_deg, longitude_deg=longitude_deg, radius_km=radius_km
    )
    centre, *around = corners(cluster)
    assert centre == cluster
    expected_deg = math.degrees(radius_km / 6371.0 / math.cos(math.pi / 8.0))
    assert len(around) == 8
    for corner in around:
        assert angle_deg(centre, corner) == pytest.approx(expected_deg, abs=1e-4)


def test_a_whole_area_is_in_contact_exactly_while_every_point_of_it_is() -> None:
    satellites = walker(total=4, planes=2, phasing=1, inclination_deg=60, altitude_km=600, epoch=EPOCH)
    cluster = Cluster(name="area", latitude_deg=40.0, longitude_deg=10.0, radius_km=400.0)
    group = corners(cluster)
    table = find_window_table(satellites, group, start=EPOCH, span_s=DAY_S)
    common = common_windows(table, [range(9)], ["area"])
    assert len(common.rise_s) > 3
    for satellite in satellites:
        own = common.satellite == common.satellites.index(satellite.name)
        seen = [find_windows([satellite], [site], start=EPOCH, span_s=DAY_S) for site in group]
        for time_s in np.arange(0.0, DAY_S, 13.0):
            everywhere = all(any(w.rise_s <= time_s < w.set_s for w in windows) for windows in seen)
            assert everywhere == bool(((common.rise_s <= time_s) & (time_s < common.set_s))[own].any())


def test_a_point_inside_the_circle_is_in_contact_whenever_the_area_is() -> None:
    sky = SkySettings(area="all")
    cluster = Cluster(name="area", latitude_deg=60.0, longitude_deg=10.0, radius_km=500.0)
    # 4.3 deg north-east and less than 500 km away: a device at the edge.
    device = Cluster(name="device", latitude_deg=63.0, longitude_deg=15.5)
    assert angle_deg(cluster, device) * 111.2 < 500.0
    whole = build_plan(sky, [cluster], link_preset("ka")).contacts["area"]
    edge = build_plan(SkySettings(), [device], link_preset("ka")).contacts["device"]
    centre = build_plan(SkySettings(), [cluster], link_preset("ka")).contacts["area"]
    assert sum(c.set_s - c.rise_s for c in whole) < 0.9 * sum(c.set_s - c.rise_s for c in centre)
    for contact in whole:
        assert any(e.rise_s <= contact.rise_s and contact.set_s <= e.set_s for e in edge)


def test_without_a_radius_both_kinds_of_area_are_the_same() -> None:
    clusters = default_clusters(3)
    plans = [build_plan(SkySettings(area=area), clusters, link_preset("ka")) for area in ("centre", "all")]
    assert plans[0].contacts == plans[1].contacts


def test_an_area_too_wide_for_any_satellite_is_never_seen() -> None:
    wide = Cluster(name="ocean", latitude_deg=0.0, longitude_deg=0.0, radius_km=2000.0)
    with pytest.raises(ValueError, match=r"cluster 'ocean' .* is never seen"):
        build_plan(SkySettings(area="all"), [wide], link_preset("ka"))


def test_impossible_radii_and_kinds_of_area_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"radius_km must be in \[0, 2000\], got nan"):
        Cluster(name="a", latitude_deg=0.0, longitude_deg=0.0, radius_km=math.nan)
    with pytest.raises(ValueError, match="area must be 'centre' or 'all', got 'some'"):
        build_plan(SkySettings(area="some"), default_clusters(1), link_preset("ka"))  # type: ignore[arg-type]
    file = tmp_path / "sites.csv"
    file.write_text("name,lat,lon,radius_km\nA,1,1,250\n")
    assert read_sites(file)[0].radius_km == 250.0
