"""Lines on a flat map: cut where the map is cut, and nothing drawn along its edges."""

import datetime as dt

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.from_orbits import SkySettings, build_plan, load_satellites
from sim.plans.link import link_preset
from sim.plans.tracks import ground_tracks
from sim.sites import default_clusters
from sim.world_map import coastlines, cut_for_flat_map

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def track(inclination_deg: float, start_deg: float, turns: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a great circle of so many turns over an Earth that turns below it, every 2 degrees."""
    along = np.radians(np.arange(0.0, 360.0 * turns, 2.0))
    tilt = np.radians(inclination_deg)
    latitude = np.degrees(np.arcsin(np.clip(np.sin(tilt) * np.sin(along), -1, 1)))
    longitude = np.degrees(np.arctan2(np.cos(tilt) * np.sin(along), np.cos(along)))
    longitude += start_deg - np.degrees(along) / 16
    return (longitude + 180.0) % 360.0 - 180.0, latitude


@given(st.floats(0.0, 180.0), st.floats(-180.0, 180.0))
def test_no_step_of_a_track_goes_along_the_edge_or_across_the_map(inclination: float, start: float) -> None:
    for piece in cut_for_flat_map(*track(inclination, start)):
        assert np.abs(np.diff(piece[:, 0])).max() <= 30.0
        assert np.abs(piece[:, 0]).max() <= 180.0


def test_an_exactly_polar_track_ends_beside_the_pole() -> None:
    # Over the pole the longitude turns by half a circle, which no line of the map may show.
    pieces = cut_for_flat_map(*track(90.0, 0.0))
    assert len(pieces) >= 3
    for piece in pieces:
        assert np.ptp(piece[:, 0]) < 40.0


def test_a_track_over_the_date_line_ends_on_it_and_begins_on_its_other_side() -> None:
    west, east = cut_for_flat_map(np.array([-170.0, 170.0]), np.array([0.0, 10.0]))
    assert west.tolist() == [[-170.0, 0.0], [-180.0, 5.0]]
    assert east.tolist() == [[180.0, 5.0], [170.0, 10.0]]


def test_a_track_that_crosses_nothing_is_one_piece() -> None:
    longitude, latitude = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])
    (piece,) = cut_for_flat_map(longitude, latitude)
    assert piece.tolist() == [[0.0, 0.0], [10.0, 1.0], [20.0, 2.0]]


def test_coastlines_hold_no_line_along_the_edges_of_the_map() -> None:
    lines = coastlines()
    assert len(lines) > 50
    for line in lines:
        assert len(line) > 1
        assert np.abs(line[:, 0]).max() <= 180.0 and np.abs(line[:, 1]).max() <= 90.0
        on_side = np.abs(line[:, 0]) >= 179.95
        assert not (on_side[:-1] & on_side[1:]).any()
        assert line[:, 1].min() > -89.0


def test_tracks_are_where_the_contacts_say() -> None:
    sky, clusters = SkySettings(span_s=86_400.0), default_clusters(4)
    plan = build_plan(sky, clusters, link_preset("s-band"))
    tracks = ground_tracks(plan, load_satellites(sky), START)
    assert (tracks.num_satellites, len(tracks.satellites), tracks.step_s) == (3, 3, 60.0)
    for cluster in clusters:
        for contact in plan.contacts[cluster.name]:
            at = round((contact.rise_s + contact.set_s) / 2 / tracks.step_s)
            near = []
            for name in contact.satellites:
                row = tracks.satellites.index(name)
                longitude, latitude = tracks.longitude_deg[row, at], tracks.latitude_deg[row, at]
                here, there = np.radians(cluster.latitude_deg), np.radians(latitude)
                turn = np.radians(longitude - cluster.longitude_deg)
                cosine = np.sin(here) * np.sin(there) + np.cos(here) * np.cos(there) * np.cos(turn)
                near.append(np.degrees(np.arccos(cosine)))
            # From 550 km and a mask of 20 degrees a satellite is seen within 10.6 degrees of arc; the sample
            # is up to half a minute, 2 degrees, beside the middle.
            assert min(near) < 12.7


def test_many_satellites_are_cut_to_those_that_serve_most() -> None:
    sky = SkySettings(
        walker_total=40, walker_planes=5, walker_pattern="delta", inclination_deg=80.0, span_s=43_200
    )
    plan = build_plan(sky, default_clusters(2), link_preset("s-band"))
    tracks = ground_tracks(plan, load_satellites(sky), START)
    assert (tracks.num_satellites, len(tracks.satellites)) == (40, 24)
    served: dict[str, float] = {}
    for contacts in plan.contacts.values():
        for contact in contacts:
            for name in contact.satellites:
                served[name] = served.get(name, 0.0) + contact.set_s - contact.rise_s
    left_out = set(served) - set(tracks.satellites)
    assert left_out
    assert max(served[name] for name in left_out) <= min(served.get(n, 0.0) for n in tracks.satellites)
