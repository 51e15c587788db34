"""A picture of a contact plan: the timeline of every site, and the ground tracks on a map."""

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.orbits.decay import impossible
from sim.orbits.orbit import Satellite, propagate
from sim.plans.plan import ContactPlan
from sim.population import Cluster
from sim.world_map import coastlines, cut_for_flat_map

# More tracks than this hide the map.
_MAX_TRACKS = 6
_TRACK_STEP_S = 30.0


def draw(
    plan: ContactPlan,
    satellites: Sequence[Satellite],
    clusters: Sequence[Cluster],
    *,
    start: dt.datetime,
    path: Path,
) -> None:
    """Draw the plan into a picture file; its suffix (.png, .svg, .pdf) says of which kind.

    Parameters
    ----------
    plan : ContactPlan
        Contacts of the clusters.
    satellites : Sequence[Satellite]
        The first six get a ground track of one revolution.
    clusters : Sequence[Cluster]
        Rows of the timeline and points on the map.
    start : datetime
        What the plan's seconds count from.
    path : Path
        Overwritten; appears whole or not at all.
    """
    height = 4.6 + 0.3 * len(clusters)
    # No pyplot: it keeps every figure, and looks for a window system.
    figure = Figure(figsize=(11.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    timeline, world = figure.subplots(2, 1, height_ratios=(0.3 * len(clusters) + 0.4, 4.2))
    _draw_timeline(timeline, plan, clusters, start)
    _draw_map(world, satellites, clusters, start)
    partial = path.with_name(f".{os.getpid()}.partial{path.suffix}")
    try:
        figure.savefig(partial, dpi=130)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_timeline(axes: Axes, plan: ContactPlan, clusters: Sequence[Cluster], start: dt.datetime) -> None:
    """Draw one row a site, a bar a contact."""
    for row, cluster in enumerate(clusters):
        bars = [
            (contact.rise_s / 3600.0, (contact.set_s - contact.rise_s) / 3600.0)
            for contact in plan.contacts[cluster.name]
        ]
        # The edge keeps a pass of minutes visible on an axis of days.
        axes.broken_barh(bars, (row - 0.36, 0.72), facecolors=f"C{row % 10}", edgecolors=f"C{row % 10}")
    labels = [f"{c.name} ({len(plan.contacts[c.name])})" for c in clusters]
    axes.set_yticks(range(len(clusters)), labels, parse_math=False)  # a name may hold dollar signs
    axes.set_ylim(len(clusters) - 0.5, -0.5)
    axes.set_xlim(0.0, plan.horizon_s / 3600.0)
    axes.set_xlabel(f"hours after {start.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC")
    axes.set_title("contacts per site", loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def _draw_map(
    axes: Axes, satellites: Sequence[Satellite], clusters: Sequence[Cluster], start: dt.datetime
) -> None:
    """Draw coastlines, sites and one revolution of the first satellites."""
    for line in coastlines():
        axes.plot(line[:, 0], line[:, 1], color="0.65", linewidth=0.7, zorder=1)
    for number, satellite in enumerate(satellites[:_MAX_TRACKS]):
        color = f"C{(number + 3) % 10}"
        for piece in _track(satellite, start):
            axes.plot(piece[:, 0], piece[:, 1], color=color, linewidth=1.0, zorder=2)
        axes.plot([], [], color=color, label=satellite.name)
    for row, cluster in enumerate(clusters):
        longitude_deg = (cluster.longitude_deg + 180.0) % 360.0 - 180.0
        axes.plot(longitude_deg, cluster.latitude_deg, "o", color=f"C{row % 10}", markersize=6, zorder=3)
        axes.annotate(
            cluster.name,
            (longitude_deg, cluster.latitude_deg),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    axes.set(xlim=(-180.0, 180.0), ylim=(-90.0, 90.0), aspect="equal")
    axes.set_xticks(range(-180, 181, 60))
    axes.set_yticks(range(-90, 91, 30))
    axes.grid(alpha=0.25)
    shown = min(len(satellites), _MAX_TRACKS)
    axes.set_title(f"first revolution of {shown} of {len(satellites)} satellites", loc="left", fontsize=10)
    for text in axes.legend(loc="lower left", fontsize=7, ncols=3).get_texts():
        text.set_parse_math(False)


def _track(satellite: Satellite, start: dt.datetime) -> list[NDArray[np.float64]]:
    """Return one revolution as longitude and latitude in degrees, cut for the flat map."""
    period_s = 2.0 * np.pi / satellite.record.no_kozai * 60.0
    time_s = np.arange(0.0, min(period_s, 86_400.0) + _TRACK_STEP_S, _TRACK_STEP_S)
    states = propagate([satellite], start, time_s)
    x, y, z = states.position_km[0][~impossible([satellite], states)[0]].T
    return cut_for_flat_map(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))
