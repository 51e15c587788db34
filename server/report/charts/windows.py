"""How old updates were and what they counted; what crossed beside what the windows carry."""

from collections import Counter
from typing import Any

from server.record.history import History
from server.record.scene import Scene
from server.report.charts.chart import DOWN, MERGE, UP, Chart, Figure, axis, layout, size_text
from server.report.charts.timeline import share_text

MOST_POINTS = 4_000


def staleness(history: History) -> list[Chart]:
    """Return the histograms of staleness and of the discount that it brought."""
    if not history.staleness:
        return []
    ages, discounts = Counter[int](), Counter[float]()
    for (age, discount), count in history.staleness.items():
        ages[age] += count
        discounts[round(discount, 3)] += count
    age_range = range(max(ages) + 1)
    by_discount = sorted(discounts.items(), reverse=True)
    return [
        Chart(
            key="staleness",
            title="Staleness of updates",
            figure=_bars(
                [str(age) for age in age_range],
                [ages[age] for age in age_range],
                MERGE,
                "merges behind",
                "experts merged",
            ),
            note="How many merges of an expert came between an update's start and its own merge.",
            height_px=300,
        ),
        Chart(
            key="discount",
            title="What stale updates counted",
            figure=_bars(
                [f"{discount:g}" for discount, _ in by_discount],
                [count for _, count in by_discount],
                MERGE,
                "discount",
                "experts merged",
            ),
            note="1 counts whole; an old update is discounted, never scaled up again.",
            height_px=300,
        ),
    ]


def _bars(labels: list[str], counts: list[int], colour: str, x_title: str, y_title: str) -> dict[str, Any]:
    bar = {
        "type": "bar",
        "x": labels,
        "y": counts,
        "marker": {"color": colour},
        "hovertemplate": "%{x}: %{y}<extra></extra>",
        "name": y_title,
    }
    return {
        "data": [bar],
        "layout": layout(
            xaxis=axis(x_title, type="category"), yaxis=axis(y_title), showlegend=False, bargap=0.3
        ),
    }


def windows(scene: Scene | None, history: History) -> list[Chart]:
    """Return bytes against window capacity, one point a pass and way."""
    if scene is None:
        return []
    data: list[Figure] = []
    ends: list[float] = []
    left_out = empty = 0
    for way, colour, symbol in (("down", DOWN, "circle"), ("up", UP, "diamond")):
        points, num_empty = _points(scene, history, way)
        shown = points[:: max(1, -(-len(points) // MOST_POINTS))]
        left_out, empty = left_out + len(points) - len(shown), empty + num_empty
        ends += [value for capacity, carried, _ in shown for value in (capacity, carried)]
        data.append(_trace(shown, way, colour, symbol))
    if not ends:
        return []
    diagonal = [min(ends) / 2, max(ends) * 2]
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "a full window",
            "x": diagonal,
            "y": diagonal,
            "line": {"color": "grey", "dash": "dash", "width": 1.5},
            "hoverinfo": "skip",
        }
    )
    logarithmic = {"type": "log", "exponentformat": "SI", "dtick": 1, "minexponent": 3, "ticksuffix": "B"}
    note = "One point a pass: the nearer to the dashed line, the fuller its window."
    if empty:
        note += f" {empty} windows carried nothing and are not drawn."
    if left_out:
        note += f" Thinned: {left_out} points are left out."
    axes = {
        "xaxis": axis("bytes that the window carries", **logarithmic),
        "yaxis": axis("bytes that crossed", **logarithmic),
    }
    figure = {"data": data, "layout": layout(**axes)}
    return [Chart(key="windows", title="Bytes against window capacity", figure=figure, note=note)]


Point = tuple[float, float, str]
"""Capacity and bytes that crossed, and the cluster."""


def _points(scene: Scene, history: History, way: str) -> tuple[list[Point], int]:
    """Return a point for each window that carried something one way, and how many carried nothing."""
    points: list[Point] = []
    empty = 0
    for cluster in scene.clusters:
        traffic = history.passes.get(cluster.name, {})
        for contact in cluster.passes:
            if contact.rise_s > history.last_s:
                continue
            crossed = traffic.get(contact.rise_s)
            carried = getattr(crossed, way).num_bytes if crossed else 0.0
            capacity = contact.down_bytes if way == "down" else contact.up_bytes
            if carried > 0 and capacity > 0:
                points.append((capacity, carried, cluster.name))
            else:
                empty += 1
    return points, empty


def _trace(points: list[Point], way: str, colour: str, symbol: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": way,
        "x": [round(capacity) for capacity, _, _ in points],
        "y": [round(carried) for _, carried, _ in points],
        "marker": {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75},
        "hovertext": [
            f"{name} {way}: {size_text(carried)} of {size_text(capacity)} ({share_text(carried / capacity)})"
            for capacity, carried, name in points
        ],
        "hoverinfo": "text",
    }
