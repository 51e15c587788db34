import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from sim.orbits.walker import walker
from sim.plans.from_orbits import SkySettings, build_plan
from sim.plans.link import link_preset
from sim.population import Cluster
from sim.sites import default_clusters
from sim.windows.finder import find_window_table
from sim.windows.relay import forward_wait_s

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY_S = 86_400.0
SVALBARD = Cluster(name="Svalbard", latitude_deg=78.23, longitude_deg=15.39, elevation_mask_deg=5.0)
TROLL = Cluster(name="Troll", latitude_deg=-72.01, longitude_deg=2.53, elevation_mask_deg=5.0)


def test_a_pass_waits_from_its_end_to_the_next_gateway_rise_of_the_same_satellite() -> None:
    satellites = walker(total=3, planes=3, phasing=1, inclination_deg=90, altitude_km=550, epoch=EPOCH)
    clusters = default_clusters(8)
    passes = find_window_table(satellites, clusters, start=EPOCH, span_s=DAY_S)
    gates = find_window_table(satellites, [SVALBARD, TROLL], start=EPOCH, span_s=DAY_S)
    waits_s = forward_wait_s(passes, gates)
    for row, wait_s in enumerate(waits_s):
        own = gates.satellite == passes.satellite[row]
        end_s = passes.set_s[row]
        if (own & (gates.rise_s <= end_s) & (end_s <= gates.set_s)).any():
            assert wait_s == 0.0
            continue
        later = gates.rise_s[own & (gates.rise_s > end_s)]
        assert wait_s == (later.min() - end_s if len(later) else np.inf)


def test_a_short_pass_over_one_gateway_within_a_long_one_over_another_ends_nothing() -> None:
    satellites = walker(total=1, planes=1, phasing=0, inclination_deg=90, altitude_km=550, epoch=EPOCH)
    wide, narrow = (replace(SVALBARD, name=f"mask-{mask}", elevation_mask_deg=mask) for mask in (0.0, 40.0))
    gates = find_window_table(satellites, [wide, narrow], start=EPOCH, span_s=DAY_S)
    inner = int(np.flatnonzero(gates.site == 1)[0])
    outer = np.flatnonzero((gates.site == 0) & (gates.set_s > gates.set_s[inner]))[0]
    # A pass that ends after the narrow gateway lost the satellite, and before the wide one did.
    end_s = 0.5 * (gates.set_s[inner] + gates.set_s[outer])
    row = slice(0, 1)
    passes = replace(gates, satellite=gates.satellite[row], rise_s=np.array([0.0]), set_s=np.array([end_s]))
    assert forward_wait_s(passes, gates).tolist() == [0.0]


def test_gateways_lengthen_the_delay_of_a_plan_and_keep_its_windows() -> None:
    clusters = default_clusters(8)
    linked = build_plan(SkySettings(), clusters, link_preset("starlink-like"))
    stored = build_plan(SkySettings(gateways=(SVALBARD,)), clusters, link_preset("starlink-like"))
    for cluster in clusters:
        before, after = linked.contacts[cluster.name], stored.contacts[cluster.name]
        # The last passes of the day may find no gateway before the horizon, and then serve nobody.
        assert len(before) - 2 <= len(after) <= len(before)
        assert [c.rise_s for c in before][: len(after)] == [c.rise_s for c in after]
        assert all(c.delay_s < 0.1 for c in before)
        # Svalbard sees every polar orbit once a revolution of 96 minutes.
        assert all(c.delay_s < 96.0 * 60.0 for c in after)
    assert max(c.delay_s for own in stored.contacts.values() for c in own) > 600.0


def test_gateways_that_nobody_passes_leave_every_cluster_unserved() -> None:
    low = SkySettings(
        walker_pattern="delta", walker_total=1, walker_planes=1, inclination_deg=20.0, gateways=(SVALBARD,)
    )
    with pytest.raises(ValueError, match=r"'here' .* is never seen .* that then reaches a gateway"):
        build_plan(low, [Cluster(name="here", latitude_deg=0.0, longitude_deg=0.0)], link_preset("ka"))
