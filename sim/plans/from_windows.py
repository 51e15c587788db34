"""From windows to the contact plan, or to a refusal that names every cluster it leaves out."""

import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.faults import raise_faults
from sim.orbits.orbit import Satellite
from sim.plans.best_rate import Pass, merge_passes
from sim.plans.link import Link
from sim.plans.plan import DIRECTIONS, Contact, ContactPlan
from sim.population import Cluster
from sim.windows.finder import WindowTable
from sim.windows.geodesy import site_positions_km


def plan_from_windows(
    table: WindowTable,
    satellites: Sequence[Satellite],
    clusters: Sequence[Cluster],
    link: Link,
    *,
    start: dt.datetime,
    span_s: float,
    ut1_utc_s: float = 0.0,
    wait_s: NDArray[np.float64] | None = None,
) -> ContactPlan:
    """Return the contact plan of windows that were found for these satellites and clusters.

    Parameters
    ----------
    table : WindowTable
        Its sites are the clusters, its satellites the satellites, in order.
    satellites, clusters : Sequence
        Who and where.
    link : Link
        The same for all.
    start : datetime
        What the windows count from.
    span_s : float
        The plan's horizon.
    ut1_utc_s : float
        As in the search for the windows.
    wait_s : float64 [N], optional
        Delay each window adds by itself; a window whose wait is infinite serves nobody.

    Raises
    ------
    ValueError
        Naming every cluster that is never served, or that the link cannot carry a byte to.
    """
    merged = merge_passes(
        _passes(table, satellites, wait_s),
        sites_km=site_positions_km(clusters),
        link=link,
        start=start,
        ut1_utc_s=ut1_utc_s,
    )
    contacts = {cluster.name: own for cluster, own in zip(clusters, merged, strict=True)}
    who = f"any of {len(satellites)} satellites{'' if wait_s is None else ' that then reaches a gateway'}"
    when = f"in the {span_s:.0f} s after {start:%Y-%m-%dT%H:%M:%SZ}"
    raise_faults(_plan_faults(clusters, contacts, f"{who} {when}", link))
    return ContactPlan(horizon_s=span_s, contacts=contacts)


def _passes(
    table: WindowTable, satellites: Sequence[Satellite], wait_s: NDArray[np.float64] | None
) -> list[list[Pass]]:
    """Sort the windows by cluster."""
    waits_s = np.zeros(len(table.rise_s)) if wait_s is None else wait_s
    passes: list[list[Pass]] = [[] for _ in table.sites]
    rows = zip(
        table.site.tolist(),
        table.satellite.tolist(),
        table.rise_s.tolist(),
        table.set_s.tolist(),
        waits_s.tolist(),
        strict=True,
    )
    for site, satellite, rise_s, set_s, wait in rows:
        if wait < np.inf:
            passes[site].append(Pass(satellites[satellite], rise_s, set_s, wait))
    return passes


def _plan_faults(
    clusters: Sequence[Cluster],
    contacts: dict[str, tuple[Contact, ...]],
    who_when: str,
    link: Link,
) -> list[str]:
    """Return one sentence for each cluster that cannot take part."""
    faults = []
    for cluster in clusters:
        own = contacts[cluster.name]
        if not own:
            faults.append(
                f"cluster {cluster.name!r} ({cluster.latitude_deg:.2f}, {cluster.longitude_deg:.2f}) is "
                f"never seen above its mask of {cluster.elevation_mask_deg:g} deg by {who_when}: lower "
                "elevation_mask_deg, lengthen the span, add satellites or raise their inclination towards "
                "the cluster's latitude, or leave the cluster out"
            )
        elif mute := [
            way for way in DIRECTIONS if sum(contact.capacity_bytes(way) for contact in own) <= 0.0
        ]:
            faults.append(
                f"cluster {cluster.name!r} is seen, but link {link.name!r} carries nothing "
                f"{' or '.join(mute)} at that distance: choose a link with more power or a lower orbit"
            )
    return faults
