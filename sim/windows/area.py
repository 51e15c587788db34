"""Clusters as areas: in contact only while all of the area is."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.population import Cluster
from sim.windows.finder import WindowTable

_EARTH_RADIUS_KM = 6371.0
# The corners of an octagon around the circle: what a satellite sees is a convex cap, so that a cap
# holding the corners holds the circle.
_CORNERS = 8


def corners(cluster: Cluster) -> tuple[Cluster, ...]:
    """Return sites whose common contact is that of the whole circle: the centre, and eight around it.

    Parameters
    ----------
    cluster : Cluster
        With its ``radius_km``; the centre alone where that is 0. The corners are as high as the centre.

    Returns
    -------
    tuple[Cluster, ...]
        The cluster itself first.
    """
    if cluster.radius_km == 0.0:
        return (cluster,)
    angle = cluster.radius_km / _EARTH_RADIUS_KM / math.cos(math.pi / _CORNERS)
    latitude = math.radians(cluster.latitude_deg)
    around = []
    for number in range(_CORNERS):
        azimuth = 2.0 * math.pi * number / _CORNERS
        up = math.sin(latitude) * math.cos(angle) + math.cos(latitude) * math.sin(angle) * math.cos(azimuth)
        east = math.sin(azimuth) * math.sin(angle) * math.cos(latitude)
        turn = math.atan2(east, math.cos(angle) - math.sin(latitude) * up)
        longitude_deg = cluster.longitude_deg + math.degrees(turn)
        around.append(
            replace(
                cluster,
                name=f"{cluster.name}/{number}",
                latitude_deg=math.degrees(math.asin(max(-1.0, min(1.0, up)))),
                longitude_deg=(longitude_deg + 180.0) % 360.0 - 180.0,
            )
        )
    return (cluster, *around)


def common_windows(table: WindowTable, members: Sequence[Sequence[int]], names: Sequence[str]) -> WindowTable:
    """Return the windows in which a satellite sees all sites of a group.

    Parameters
    ----------
    table : WindowTable
        Windows of the single sites.
    members : Sequence[Sequence[int]]
        Per group, the indices of its sites; each site belongs to one group at most.
    names : Sequence[str]
        Per group, what the resulting site is called.

    Returns
    -------
    WindowTable
        One site a group, in the order of site, satellite, time; without highest elevations.
    """
    group_of = np.full(len(table.sites), -1)
    for number, own in enumerate(members):
        group_of[list(own)] = number
    sizes = np.array([len(sites) for sites in members])
    group = group_of[table.site]
    # Rises count +1 and sets -1; where as many are up as the group has sites, all see the satellite.
    time_s = np.concatenate([table.rise_s, table.set_s])
    change = np.repeat([1, -1], len(table.rise_s))
    groups, satellites = np.tile(group, 2), np.tile(table.satellite, 2)
    # At equal times sets come first: windows that merely touch have nothing in common.
    order = np.lexsort((change, time_s, satellites, groups))
    order = order[groups[order] >= 0]
    up = np.cumsum(change[order])  # back to 0 at the end of every pair of group and satellite
    begins = np.flatnonzero((up == sizes[groups[order]]) & (change[order] > 0))
    ends = begins + 1  # the next event of the pair is the first of them to set
    rise_s, set_s = time_s[order[begins]], time_s[order[ends]]
    keep = set_s > rise_s
    begins, rise_s, set_s = begins[keep], rise_s[keep], set_s[keep]
    end_s = time_s.max(initial=0.0)
    return replace(
        table,
        sites=tuple(names),
        site=groups[order[begins]].astype(np.int32),
        satellite=satellites[order[begins]],
        rise_s=rise_s,
        set_s=set_s,
        rise_clipped=rise_s == 0.0,
        set_clipped=(set_s == end_s) & bool(table.set_clipped.any()),
        max_elevation_deg=None,
    )
