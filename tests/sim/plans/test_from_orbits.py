import datetime as dt
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.orbits.orbit import propagate
from sim.orbits.walker import walker
from sim.plans.best_rate import Pass, merge_passes
from sim.plans.from_orbits import SkySettings, build_plan, load_satellites, start_of
from sim.plans.link import FixedRate, Link, LinkBudget, link_preset
from sim.population import Cluster
from sim.sites import default_clusters
from sim.windows.finder import find_windows
from sim.windows.geodesy import site_positions_km

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY_S = 86_400.0
KA_DOWN = link_preset("ka").down


def quiet(_: str) -> None:
    """Take a notice and say nothing."""


def test_the_default_sky_serves_every_default_cluster_several_times_a_day() -> None:
    plan = build_plan(SkySettings(), default_clusters(8), link_preset("starlink-like"))
    assert plan.horizon_s == DAY_S
    for contacts in plan.contacts.values():
        edges = [0.0, *(edge for c in contacts for edge in (c.rise_s, c.set_s)), DAY_S]
        gaps_s = [edges[i + 1] - edges[i] for i in range(0, len(edges), 2)]
        assert 6 <= len(contacts) <= 12
        assert max(gaps_s) < 4.8 * 3600.0


def test_a_contact_is_the_union_of_passes_and_names_who_serves() -> None:
    satellites = walker(total=24, planes=4, phasing=1, inclination_deg=60, altitude_km=700, epoch=EPOCH)
    here = default_clusters(2)[1]
    sky = SkySettings(
        walker_pattern="delta",
        walker_total=24,
        walker_planes=4,
        walker_phasing=1,
        inclination_deg=60.0,
        altitude_km=700.0,
    )
    contacts = build_plan(sky, [here], link_preset("ka")).contacts[here.name]
    windows = find_windows(satellites, [here], start=EPOCH, span_s=DAY_S)
    for time_s in np.arange(0.5, DAY_S, 97.0):
        seen = {w.satellite for w in windows if w.rise_s <= time_s < w.set_s}
        serving = [c for c in contacts if c.rise_s <= time_s < c.set_s]
        assert bool(seen) == bool(serving)
        assert seen <= set(serving[0].satellites if serving else ())
    assert max(len(c.satellites) for c in contacts) > 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_rate_at_any_moment_is_that_of_the_best_satellite_in_view(seed: int, count: int) -> None:
    satellites = walker(total=6, planes=2, phasing=1, inclination_deg=60, altitude_km=700, epoch=EPOCH)
    here = default_clusters(3)[2]
    site_km = site_positions_km([here])[0]
    rng = np.random.default_rng(seed)
    # Passes need not be real for the merge: any intervals of any satellites will do.
    passes = [
        Pass(satellites[i], float(rise_s), float(rise_s + rng.uniform(5.0, 900.0)))
        for i, rise_s in enumerate(rng.uniform(0.0, 1_500.0, count))
    ]
    # No cut-off at low signal: the intervals may reach below the horizon, and a step is no line.
    assert isinstance(KA_DOWN, LinkBudget)
    down = replace(KA_DOWN, min_cnr_db=-200.0)
    link = Link(name="ka", down=down, up=down)
    (contacts,) = merge_passes([passes], sites_km=site_km[None], link=link, start=EPOCH)
    for time_s in rng.uniform(0.0, 2_500.0, 60):
        rates = [
            link.down.bytes_per_s(
                np.linalg.norm(
                    propagate([p.satellite], EPOCH, np.array([time_s])).position_km[0] - site_km, axis=1
                )
            )[0]
            for p in passes
            if p.rise_s <= time_s < p.set_s
        ]
        serving = [c for c in contacts if c.rise_s <= time_s < c.set_s]
        assert len(serving) == bool(rates)
        if rates:
            rate = np.interp(time_s, serving[0].time_s, serving[0].down_bytes_per_s)
            # Where the best satellite changes between two knots, the line cuts the corner by up to 2 %.
            assert rate == pytest.approx(max(rates), rel=0.02)


def test_a_time_comes_twice_only_where_the_rate_jumps() -> None:
    satellites = walker(total=2, planes=2, phasing=0, inclination_deg=60, altitude_km=700, epoch=EPOCH)
    here = default_clusters(3)[2]
    # The second satellite is there all the time; which is better changes when the first one sets.
    first, second = Pass(satellites[0], 100.0, 400.0), Pass(satellites[1], 0.0, 900.0)
    (contacts,) = merge_passes(
        [[first, second]], sites_km=site_positions_km([here]), link=link_preset("s-band"), start=EPOCH
    )
    (contact,) = contacts
    twice = np.flatnonzero(np.diff(contact.time_s) == 0.0)
    for knot in twice:
        assert contact.time_s[knot] in (100.0, 400.0)
        assert contact.down_bytes_per_s[knot] != contact.down_bytes_per_s[knot + 1]
    assert (np.diff(contact.time_s) >= 0.0).all()
    assert len(twice) <= 2


def test_the_capacity_of_a_pass_is_the_integral_over_its_distance() -> None:
    # link_budget notes: a 600 km pass over the zenith carries 49.3 GB down over the Ka link above 10 deg.
    here = Cluster(name="equator", latitude_deg=0.0, longitude_deg=0.0, elevation_mask_deg=10.0)
    sky = SkySettings(
        walker_total=1, walker_planes=1, walker_phasing=0, inclination_deg=0.0, altitude_km=600.0
    )
    contacts = build_plan(sky, [here], link_preset("ka")).contacts["equator"]
    middle = contacts[len(contacts) // 2]
    # The notes have 531 s at a middle inclination; over the equator it chases the turning Earth for longer.
    duration_s = middle.set_s - middle.rise_s
    assert duration_s == pytest.approx(531.0, rel=0.03)
    assert middle.capacity_bytes("down") / duration_s == pytest.approx(49_300e6 / 531.0, rel=0.02)
    assert middle.capacity_bytes("up") / duration_s == pytest.approx(52_500e6 / 531.0, rel=0.01)


def test_fixed_rates_need_no_knots_inside_a_contact() -> None:
    plan = build_plan(SkySettings(), default_clusters(1), link_preset("starlink-like"))
    for contact in next(iter(plan.contacts.values())):
        assert len(contact.time_s) == 2
        assert 0.015 + 0.002 < contact.delay_s < 0.015 + 0.015


def test_delay_is_the_light_time_of_the_nearest_satellite() -> None:
    here = Cluster(name="equator", latitude_deg=0.0, longitude_deg=0.0, elevation_mask_deg=60.0)
    sky = SkySettings(
        walker_total=1, walker_planes=1, walker_phasing=0, inclination_deg=0.0, altitude_km=600.0
    )
    contact = build_plan(sky, [here], link_preset("ka")).contacts["equator"][1]
    # Above 60 deg the distance is 600 to 684 km: 2.0 to 2.3 ms.
    assert 0.0020 < contact.delay_s < 0.0023


def test_one_named_satellite_may_be_the_server() -> None:
    clusters = default_clusters(8)
    any_plan = build_plan(SkySettings(), clusters, link_preset("starlink-like"))
    name = load_satellites(SkySettings())[0].name
    one_plan = build_plan(SkySettings(serving=name), clusters, link_preset("starlink-like"))
    for cluster in clusters:
        assert {s for c in one_plan.contacts[cluster.name] for s in c.satellites} == {name}
        assert len(one_plan.contacts[cluster.name]) < len(any_plan.contacts[cluster.name])
    with pytest.raises(ValueError, match="the serving satellite 'Moon' is not among the"):
        load_satellites(SkySettings(serving="Moon"))


def test_a_cluster_that_no_satellite_ever_sees_is_refused_by_name() -> None:
    sky = SkySettings(inclination_deg=20.0, altitude_km=500.0)
    with pytest.raises(ValueError, match=r"cluster 'Iqaluit' \(63.75, -68.52\) is never seen") as caught:
        build_plan(sky, default_clusters(8), link_preset("starlink-like"))
    message = str(caught.value)
    assert "mask of 20 deg" in message
    assert "86400 s after 2026-01-01" in message
    assert "lower elevation_mask_deg" in message
    assert "'Orcadas'" in message
    assert "'Lodwar'" not in message


def test_a_link_that_carries_nothing_that_far_is_refused() -> None:
    deaf = LinkBudget(
        frequency_ghz=20.0,
        bandwidth_hz=400e6,
        eirp_dbw=-30.0,
        gain_over_temperature_db=-30.0,
        extra_loss_db=0.0,
        efficiency=0.6,
        max_bits_per_hz=4.4,
    )
    link = Link(name="deaf", down=deaf, up=FixedRate(rate_bps=1e6))
    with pytest.raises(ValueError, match="cluster 'Iqaluit' is seen, but link 'deaf' carries nothing down"):
        build_plan(SkySettings(), default_clusters(1), link)


def test_elements_of_a_file_start_at_the_newest_epoch_and_old_ones_are_told(shared_data: Path) -> None:
    path = str(shared_data / "orbits/truth_20sats.tle")
    notices: list[str] = []
    fresh = SkySettings(elements=path)
    satellites = load_satellites(fresh)
    start = start_of(fresh, satellites)
    assert dt.timedelta(0) < start - max(s.epoch for s in satellites) <= dt.timedelta(seconds=1)
    plan = build_plan(fresh, default_clusters(8), link_preset("ka"), on_notice=notices.append)
    assert all(plan.contacts.values())
    assert notices == []
    old = SkySettings(elements=path, start=start + dt.timedelta(days=10))
    build_plan(old, default_clusters(8), link_preset("ka"), on_notice=notices.append)
    assert "20 of 20 element sets are more than 3 days away" in notices[0]


def test_the_same_settings_give_the_same_plan() -> None:
    once, again = (build_plan(SkySettings(), default_clusters(4), link_preset("s-band")) for _ in range(2))
    assert once.contacts == again.contacts


def test_nothing_but_finite_numbers_leaves_the_sky() -> None:
    plan = build_plan(SkySettings(), default_clusters(8), link_preset("nb-iot"), on_notice=quiet)
    for contact in itertools.chain.from_iterable(plan.contacts.values()):
        for values in (contact.time_s, contact.down_bytes_per_s, contact.up_bytes_per_s):
            assert np.isfinite(values).all()
