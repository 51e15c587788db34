import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.population import Cluster, Population, build_population
from sim.sites import DEFAULT_SITES, default_clusters, read_sites


def population(**changes: object) -> Population:
    chosen: dict[str, object] = {
        "clusters": default_clusters(8),
        "num_devices": 96,
        "devices_per_node": 5,
        "step_time_s": 2.0,
        "speed_spread": 0.5,
        "data_spread": 0.5,
        "memory_bytes": 2**30,
        "seed": 7,
    }
    return build_population(**{**chosen, **changes})  # type: ignore[arg-type]


def test_devices_are_dealt_to_clusters_evenly_and_in_order() -> None:
    people = population()
    assert [d.device_id for d in people.devices] == list(range(96))
    for number, cluster in enumerate(people.clusters):
        own = people.cluster_devices(cluster.name)
        assert [d.device_id for d in own] == list(range(12 * number, 12 * number + 12))


def test_nodes_host_devices_of_one_cluster_and_are_as_slow_as_their_slowest_device() -> None:
    people = population()
    assert [n.node_id for n in people.nodes] == list(range(1, 25))
    assert [len(n.device_ids) for n in people.nodes[:3]] == [5, 5, 2]
    for node in people.nodes:
        hosted = [people.device(i) for i in node.device_ids]
        assert {d.cluster for d in hosted} == {node.cluster}
        assert node.step_time_s == max(d.step_time_s for d in hosted)


@settings(max_examples=40, deadline=None)
@given(
    num_clusters=st.integers(1, 8),
    extra=st.integers(0, 60),
    devices_per_node=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_everybody_is_hosted_exactly_once_and_cluster_sizes_differ_by_at_most_one(
    num_clusters: int, extra: int, devices_per_node: int, seed: int
) -> None:
    people = population(
        clusters=default_clusters(num_clusters),
        num_devices=num_clusters + extra,
        devices_per_node=devices_per_node,
        seed=seed,
    )
    hosted = [i for node in people.nodes for i in node.device_ids]
    assert hosted == list(range(num_clusters + extra))
    sizes = [len(people.cluster_devices(c.name)) for c in people.clusters]
    assert max(sizes) - min(sizes) <= 1
    assert all(d.data_share > 0 and d.step_time_s > 0 for d in people.devices)


def test_the_same_seed_gives_the_same_people_and_another_seed_others() -> None:
    assert population() == population()
    assert population().devices != population(seed=8).devices


def test_a_change_of_the_data_spread_leaves_the_speeds_as_they_were() -> None:
    before, after = population(), population(data_spread=1.5)
    assert [d.step_time_s for d in before.devices] == [d.step_time_s for d in after.devices]
    assert [d.data_share for d in before.devices] != [d.data_share for d in after.devices]


def test_no_spread_means_equal_devices_and_a_wide_one_stays_within_two_sigmas() -> None:
    assert {d.step_time_s for d in population(speed_spread=0.0).devices} == {2.0}
    times = [d.step_time_s for d in population(speed_spread=3.0, num_devices=4000).devices]
    assert max(times) == pytest.approx(2.0 * math.exp(6.0))
    assert min(times) == pytest.approx(2.0 * math.exp(-6.0))


def test_every_impossible_setting_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="num_devices must be at least one") as caught:
        population(num_devices=0, devices_per_node=0, step_time_s=float("nan"), data_spread=-1.0, seed=-1)
    for field in ("devices_per_node", "step_time_s", "data_spread", "seed"):
        assert field in str(caught.value)


def test_a_mask_above_ninety_degrees_and_a_site_off_the_globe_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"elevation_mask_deg must be in \[0, 90\), got 95.0") as caught:
        Cluster(name="Kiruna", latitude_deg=91.0, longitude_deg=float("nan"), elevation_mask_deg=95.0)
    assert "latitude_deg must be in [-90, 90], got 91.0 for cluster 'Kiruna'" in str(caught.value)
    assert "longitude_deg" in str(caught.value)


def test_two_clusters_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one of: Leh"):
        population(clusters=(DEFAULT_SITES[2], DEFAULT_SITES[2]))


def test_unknown_people_are_refused_with_the_range() -> None:
    with pytest.raises(ValueError, match="no node 0; nodes are 1 to 24"):
        population().node(0)
    with pytest.raises(ValueError, match="no device 96; devices are 0 to 95"):
        population().device(96)
    with pytest.raises(ValueError, match="no cluster 'Atlantis'; clusters: Iqaluit"):
        population().cluster("Atlantis")


def test_of_a_part_of_the_people_only_those_are_known() -> None:
    everybody = population()
    some = replace(everybody, devices=everybody.devices[3:8:2])
    assert some.device(5) == everybody.device(5)
    for unknown in (4, 8, 2**63):
        with pytest.raises(ValueError, match=f"no device {unknown}; devices are 3 to 7"):
            some.device(unknown)
    with pytest.raises(ValueError, match="no device 0; devices are none"):
        replace(everybody, devices=()).device(0)


def test_sites_are_read_from_a_csv_with_short_names_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("site,lat,lon,#notes,mask\nSioux Falls,43.55,-96.72,x,\nSanya,18.25,109.5,y,25\n")
    first, second = read_sites(file, elevation_mask_deg=5.0)
    assert first == Cluster(
        name="Sioux Falls", latitude_deg=43.55, longitude_deg=-96.72, elevation_mask_deg=5.0
    )
    assert second.elevation_mask_deg == 25.0


def test_a_bad_sites_file_names_every_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("name,lat,lon\nA,north,0\nB,100,0\nC,1,1\nC,2,2\n")
    with pytest.raises(ValueError, match=r"line 2: lat must be a number, got 'north'") as caught:
        read_sites(file)
    assert "line 3: latitude_deg must be in [-90, 90], got 100.0" in str(caught.value)
    assert "line 5: site 'C' is already on line 4" in str(caught.value)


def test_a_sites_file_without_a_needed_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("name,lat\nA,1\n")
    with pytest.raises(ValueError, match="missing longitude_deg, found name, lat"):
        read_sites(file)


def test_more_default_clusters_than_there_are_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"must be in \[1, 500\], got 501; for more give a CSV"):
        default_clusters(501)
