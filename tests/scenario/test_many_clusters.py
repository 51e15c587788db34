"""Clusters without a file of sites: any number up to 500, and no more."""

import pytest

from scenario.derive import clusters_from, population_from
from scenario.settings.reading import read_config


@pytest.mark.parametrize("count", [8, 9, 500])
def test_any_number_of_clusters_up_to_500_needs_no_file(count: int) -> None:
    config = read_config({"population.clusters": count, "population.devices": 1000})
    population = population_from(config)
    assert len(population.clusters) == count
    assert population.clusters[0].name == "Iqaluit"
    assert {cluster.elevation_mask_deg for cluster in clusters_from(config)} == {20.0}
    assert len(population.devices) == 1000


def test_more_clusters_than_places_are_refused_before_anything_starts() -> None:
    with pytest.raises(
        ValueError, match=r"population.clusters must be at most 500 without population.sites, got 501"
    ):
        read_config({"population.clusters": 501, "population.devices": 1000})
    read_config({"population.clusters": 501, "population.devices": 1000, "population.sites": "/sites.csv"})
