"""The built-in places: as many as asked for, on land, apart from each other, and always the same."""

import math
from functools import cache

import numpy as np
import pytest

from sim.plans.from_orbits import SkySettings, build_plan
from sim.plans.link import link_preset
from sim.population import Cluster
from sim.sites import DEFAULT_SITES, default_clusters
from sim.windows.geodesy import site_positions_km
from sim.world_map import coastlines

EARTH_RADIUS_KM = 6371.0
# Small islands, which a map of 1:110 million leaves out.
TOO_SMALL_FOR_THE_MAP = {"Tristan", "Orcadas"}


@cache
def rings() -> list[np.ndarray]:
    """Return Natural Earth's coastlines as closed lines of longitude and latitude, cut nowhere."""
    found = coastlines()
    closed = [np.vstack([ring, ring[:1]]) for ring in found]
    return [np.column_stack([np.unwrap(ring[:, 0], period=360.0), ring[:, 1]]) for ring in closed]


@cache
def segments() -> np.ndarray:
    """Return the pieces of all coastlines: [N, begin or end, longitude and latitude]."""
    return np.concatenate([np.stack([ring[:-1], ring[1:]], axis=1) for ring in rings()])


def is_land(longitude_deg: float, latitude_deg: float) -> bool:
    """Tell whether a ray to the east crosses the coasts an odd number of times."""
    (x0, y0), (x1, y1) = segments()[:, 0].T, segments()[:, 1].T
    beside = (y0 > latitude_deg) != (y1 > latitude_deg)
    x0, y0, x1, y1 = (part[beside] for part in (x0, y0, x1, y1))
    x = x0 + (latitude_deg - y0) / (y1 - y0) * (x1 - x0)
    crossings = sum(int((x > longitude_deg + turn).sum()) for turn in (-360.0, 0.0, 360.0))
    return crossings % 2 == 1


def to_coast_km(longitude_deg: float, latitude_deg: float) -> float:
    """Return the distance to the nearest coast, on the plane that touches the globe there."""
    scale_km = math.radians(1.0) * EARTH_RADIUS_KM
    nearest_km = math.inf
    for turn in (-360.0, 0.0, 360.0):
        ends = segments() - np.array([longitude_deg + turn, latitude_deg])
        ends = ends * scale_km * np.array([math.cos(math.radians(latitude_deg)), 1.0])
        begin, along = ends[:, 0], ends[:, 1] - ends[:, 0]
        part = -np.einsum("nc,nc->n", begin, along) / np.maximum(np.einsum("nc,nc->n", along, along), 1e-9)
        at = begin + np.clip(part, 0.0, 1.0)[:, None] * along
        nearest_km = min(nearest_km, float(np.hypot(at[:, 0], at[:, 1]).min()))
    return nearest_km


def apart_km(places: tuple[Cluster, ...]) -> np.ndarray:
    """Return the distances of all pairs along the ground, a place from itself infinitely far."""
    position_km = site_positions_km(places)
    unit = position_km / np.linalg.norm(position_km, axis=1)[:, None]
    angle = np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    np.fill_diagonal(angle, np.inf)
    result: np.ndarray = angle * EARTH_RADIUS_KM
    return result


def test_the_map_of_this_test_knows_land_from_sea() -> None:
    for land in ((0.0, 47.0), (100.0, 50.0), (-100.0, 40.0), (135.0, -25.0), (179.0, 67.5), (25.0, -80.0)):
        assert is_land(*land)
    for sea in ((-30.0, 0.0), (-150.0, 40.0), (80.0, -30.0), (0.0, 89.0), (178.0, 0.0)):
        assert not is_land(*sea)


def test_there_are_five_hundred_built_in_places_of_different_names() -> None:
    places = default_clusters(500)
    assert len({place.name for place in places}) == 500
    assert default_clusters(500) == places
    assert default_clusters(37) == places[:37]


def test_the_first_eight_places_are_those_they_always_were() -> None:
    names = ["Iqaluit", "Khatgal", "Leh", "Tindouf", "Lodwar", "Sao-Gabriel", "Tristan", "Orcadas"]
    assert [place.name for place in default_clusters(9)][:8] == names
    assert [(p.latitude_deg, p.longitude_deg, p.altitude_m) for p in default_clusters(9)[:8]] == [
        (p.latitude_deg, p.longitude_deg, p.altitude_m) for p in DEFAULT_SITES
    ]


def test_every_built_in_place_is_on_land() -> None:
    # The map is simplified to half a degree: a place on the coast may lie 25 km off it.
    at_sea = [p for p in default_clusters(500) if not is_land(p.longitude_deg, p.latitude_deg)]
    far = {p.name for p in at_sea if to_coast_km(p.longitude_deg, p.latitude_deg) > 25.0}
    assert far == TOO_SMALL_FOR_THE_MAP
    assert len(at_sea) < 40


def test_built_in_places_are_spread_over_the_globe_whatever_their_number() -> None:
    for count, least_km in ((20, 1500.0), (60, 900.0), (200, 350.0), (500, 180.0)):
        assert apart_km(default_clusters(count)).min() > least_km
    places = default_clusters(60)
    for low_deg in range(-180, 180, 60):  # no sixth of the globe is left out
        assert any(low_deg <= place.longitude_deg < low_deg + 60 for place in places)
    assert sum(place.latitude_deg < 0.0 for place in places) > 15


@pytest.mark.parametrize("count", [9, 500])
def test_the_default_sky_serves_every_built_in_place(count: int) -> None:
    plan = build_plan(SkySettings(), default_clusters(count), link_preset("s-band"))
    assert len(plan.contacts) == count
    assert all(contacts for contacts in plan.contacts.values())
