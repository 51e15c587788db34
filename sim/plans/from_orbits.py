"""The sky of a run: constellation, clusters and link in, contact plan out."""

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.faults import raise_faults
from sim.orbits.elements import read_elements
from sim.orbits.orbit import Satellite
from sim.orbits.walker import walker
from sim.plans.from_windows import plan_from_windows
from sim.plans.link import Link
from sim.plans.plan import ContactPlan
from sim.population import Cluster
from sim.windows.area import common_windows, corners
from sim.windows.finder import WindowTable, find_window_table
from sim.windows.relay import forward_wait_s

logger = logging.getLogger(__name__)

# Prediction error grows with the age of the elements: measured on 393 Starlinks, rises are late by
# 1.6 s after one day, 2.2 s after three, 5.9 s after seven, and 0.6, 9, 17 % of windows are missed.
_STALE_DAYS = 3.0
_FIRST_YEAR, _LAST_YEAR = 1957, 2099  # of satellites, and of what two-digit years and leap years allow for
_WALKER_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkySettings:
    """Which satellites fly, and when.

    The default, three polar orbits at 550 km, gives each of the eight default sites (mask 20 degrees)
    6 to 12 contacts a day with gaps of up to 4.7 h: measured, and held by a test.

    Parameters
    ----------
    elements : str
        ``walker`` for the constellation below, or the path of an element file (TLE, OMM), a name as it is.
    walker_pattern : {"delta", "star"}
    walker_total, walker_planes, walker_phasing : int
        Walker's T/P/F.
    inclination_deg, altitude_km : float
        Of the Walker constellation.
    start : datetime, optional
        UTC, with a time zone. None: the newest epoch of the element file, or 2026-01-01 for Walker.
    span_s : float
        Horizon of the plan, in (0, 366 days].
    step_s : float
        Grid of the window search, see `sim.windows.finder.find_window_table`.
    ut1_utc_s : float
        UT1 - UTC in seconds, in (-1, 1).
    serving : str
        ``any``: every satellite serves the server, through inter-satellite links. Or the name of the
        one satellite that is the server.
    area : {"centre", "all"}
        A cluster is in contact when its centre is, or when all of the circle of its ``radius_km`` is. The
        rate is that at the centre either way.
    gateways : tuple[Cluster, ...]
        Where satellites without inter-satellite links reach the server: they store and forward, and the
        delay of a contact grows by the measured wait (see `sim.windows.relay`). Empty: satellites are linked.
    """

    elements: str = "walker"
    walker_pattern: Literal["delta", "star"] = "star"
    walker_total: int = 3
    walker_planes: int = 3
    walker_phasing: int = 0
    inclination_deg: float = 90.0
    altitude_km: float = 550.0
    start: dt.datetime | None = None
    span_s: float = 86_400.0
    step_s: float = 60.0
    ut1_utc_s: float = 0.0
    serving: str = "any"
    area: Literal["centre", "all"] = "centre"
    gateways: tuple[Cluster, ...] = ()


def load_satellites(
    sky: SkySettings, *, on_notice: Callable[[str], None] = logger.warning
) -> tuple[Satellite, ...]:
    """Return the satellites of the settings, or only the one that serves.

    Parameters
    ----------
    sky : SkySettings
        Which satellites.
    on_notice : callable
        Told, a sentence each, of element sets of the file that are left out.

    Raises
    ------
    ValueError
        For impossible elements, or a serving satellite that is not among them.
    """
    if sky.elements == "walker":
        satellites = walker(
            total=sky.walker_total,
            planes=sky.walker_planes,
            phasing=sky.walker_phasing,
            inclination_deg=sky.inclination_deg,
            altitude_km=sky.altitude_km,
            epoch=sky.start or _WALKER_START,
            pattern=sky.walker_pattern,
        )
    else:
        satellites = read_elements(sky.elements, on_notice=on_notice)
    if sky.serving == "any":
        return satellites
    chosen = tuple(satellite for satellite in satellites if satellite.name == sky.serving)
    if not chosen:
        names = ", ".join(satellite.name for satellite in satellites[:10])
        raise ValueError(
            f"the serving satellite {sky.serving!r} is not among the {len(satellites)} satellites ({names}"
            f"{', ...' if len(satellites) > 10 else ''}); name one of them, or 'any'"
        )
    return chosen


def start_of(sky: SkySettings, satellites: Sequence[Satellite]) -> dt.datetime:
    """Return the instant the plan counts its seconds from; ``ValueError`` outside 1957 to 2099."""
    if sky.start is not None:
        if not _FIRST_YEAR <= sky.start.year <= _LAST_YEAR:
            raise ValueError(
                f"the start must be in the years {_FIRST_YEAR} to {_LAST_YEAR}, got {sky.start.isoformat()}"
            )
        return sky.start
    if sky.elements == "walker":
        return _WALKER_START
    return max(satellite.epoch for satellite in satellites).replace(microsecond=0) + dt.timedelta(seconds=1)


def build_plan(
    sky: SkySettings,
    clusters: Sequence[Cluster],
    link: Link,
    *,
    on_notice: Callable[[str], None] = logger.warning,
) -> ContactPlan:
    """Return when each cluster can be reached, and how many bytes a second it carries then.

    Parameters
    ----------
    sky : SkySettings
        Satellites and span.
    clusters : Sequence[Cluster]
        In contact when their centre is, or all of them, as ``sky.area`` says.
    link : Link
        The same for all; the rate at any moment is that of the best satellite in view.
    on_notice : callable
        Told, a sentence each, of satellites left out and of elements that are too old.

    Returns
    -------
    ContactPlan
        At least one contact a cluster.

    Raises
    ------
    ValueError
        For impossible settings, and naming every cluster that no satellite ever sees or that the link
        cannot carry a byte to.
    """
    satellites = load_satellites(sky, on_notice=on_notice)
    start = start_of(sky, satellites)
    notice_age(satellites, start, sky.span_s, on_notice)
    table = find_cluster_windows(sky, satellites, clusters, start)
    for left_out in table.left_out:
        on_notice(str(left_out))
    return plan_from_windows(
        table,
        satellites,
        clusters,
        link,
        start=start,
        span_s=sky.span_s,
        ut1_utc_s=sky.ut1_utc_s,
        wait_s=gateway_wait_s(sky, satellites, start, table),
    )


def find_cluster_windows(
    sky: SkySettings,
    satellites: Sequence[Satellite],
    clusters: Sequence[Cluster],
    start: dt.datetime,
    *,
    with_peaks: bool = False,
) -> WindowTable:
    """Return the windows of the clusters, as centres or as areas (those know no highest elevation).

    Raises
    ------
    ValueError
        For impossible settings, or if no satellite is in orbit at any time of the span.
    """
    if sky.area not in ("centre", "all"):
        raise ValueError(f"area must be 'centre' or 'all', got {sky.area!r}")
    groups = [corners(cluster) if sky.area == "all" else (cluster,) for cluster in clusters]
    sites = [site for group in groups for site in group]
    table = _find(sky, satellites, sites, start, with_peaks=with_peaks)
    absent = [left_out for left_out in table.left_out if not left_out.part]
    if len(absent) == len(table.satellites):
        choose = "choose a start near the epochs of the elements, or fresh elements"
        raise_faults([f"no satellite is in orbit in the span; {choose}", *map(str, absent)])
    if len(sites) == len(clusters):
        return table
    ends = np.cumsum([len(group) for group in groups])
    members = [range(end - len(group), end) for end, group in zip(ends, groups, strict=True)]
    return common_windows(table, members, [cluster.name for cluster in clusters])


def gateway_wait_s(
    sky: SkySettings, satellites: Sequence[Satellite], start: dt.datetime, table: WindowTable
) -> NDArray[np.float64] | None:
    """Return how long each window waits for a gateway, or None where satellites are linked."""
    if not sky.gateways:
        return None
    return forward_wait_s(table, _find(sky, satellites, sky.gateways, start))


def _find(
    sky: SkySettings,
    satellites: Sequence[Satellite],
    sites: Sequence[Cluster],
    start: dt.datetime,
    *,
    with_peaks: bool = False,
) -> WindowTable:
    """Search with the settings' span, step and UT1."""
    return find_window_table(
        satellites,
        sites,
        start=start,
        span_s=sky.span_s,
        step_s=sky.step_s,
        ut1_utc_s=sky.ut1_utc_s,
        with_peaks=with_peaks,
    )


def notice_age(
    satellites: Sequence[Satellite], start: dt.datetime, span_s: float, on_notice: Callable[[str], None]
) -> None:
    """Say so when element sets are days away from the simulated time."""
    half_s = span_s / 2.0 if 0.0 < span_s < 1e9 else 0.0  # the search refuses others
    middle = start + dt.timedelta(seconds=half_s)
    ages_days = [abs((middle - satellite.epoch).total_seconds()) / 86_400.0 for satellite in satellites]
    stale = sum(age > _STALE_DAYS for age in ages_days)
    if stale and any(satellite.record.bstar != 0.0 for satellite in satellites):
        on_notice(
            f"{stale} of {len(satellites)} element sets are more than {_STALE_DAYS:g} days away from the "
            f"middle of the plan (the furthest {max(ages_days):.1f}): Starlink rises drift by about 2 s in 3 "
            "days, 6 s in 7 and 14 s in 14, and 9, 17 and 28 % of the passes are missed (manoeuvres); use "
            "fresh elements"
        )
