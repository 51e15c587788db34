"""The globe and the flat map: who is where, who is in view, who trains, what crosses."""

from collections.abc import Mapping, Sequence
from typing import Any

from server.record.history import History, PassTraffic
from server.record.scene import ClusterScene, Scene
from server.report.charts.chart import GREY, SEQUENTIAL, Chart
from sim.world_map import coastlines

MOST_STEPS = 800
"""Changes of the number of training devices that are kept for a cluster; of more, samples."""


def world_charts(scene: Scene, history: History, gains: Mapping[str, float], end_s: float) -> list[Chart]:
    """Return the globe and the map, which one slider moves.

    Parameters
    ----------
    scene : Scene
        Places, contacts and tracks.
    history : History
        What happened.
    gains : Mapping[str, float]
        Cluster -> fall of its held-out loss, nats a token.
    end_s : float
        End of the slider.
    """
    moving = _moving(scene, history, end_s)
    notes = [
        "Size: devices. Colour: how far the held-out loss fell. "
        "The time when a transfer's first byte leaves is not logged: it is taken to cross from when the link "
        "was free for it."
    ]
    if scene.num_satellites > len(scene.tracks):
        notes.append(f"{len(scene.tracks)} of {scene.num_satellites} satellites, those that serve most.")
    if not scene.tracks:
        notes.append("Where the satellites are is not known: the contacts came from a plan file.")
    return [
        Chart(
            key=key,
            title=title,
            figure=_figure(scene, gains, projection),
            note=" ".join(notes) if key == "map" else "Drag to turn it.",
            height_px=height_px,
            kind="world",
            more=moving if key == "globe" else {},
        )
        for key, title, projection, height_px in (
            ("globe", "Globe", "orthographic", 460),
            ("map", "Map", "equirectangular", 370),
        )
    ]


def _figure(scene: Scene, gains: Mapping[str, float], projection: str) -> dict[str, Any]:
    is_globe = projection == "orthographic"
    most = max((cluster.num_devices for cluster in scene.clusters), default=1)
    scale = min(1.0, (24 / max(len(scene.clusters), 1)) ** 0.5)
    known = [gains.get(cluster.name) for cluster in scene.clusters]
    has_gain = any(gain is not None for gain in known)
    marker: dict[str, Any] = {
        "size": [
            round(scale * (9 + 13 * (cluster.num_devices / most) ** 0.5), 1) for cluster in scene.clusters
        ],
        "line": {"width": 1.5, "color": "text"},
        "opacity": 1,
        "color": [gain if gain is not None else 0.0 for gain in known] if has_gain else GREY,
    }
    if has_gain:
        numbers = [gain for gain in known if gain is not None]
        marker |= {
            "colorscale": SEQUENTIAL,
            "cmin": min(0.0, *numbers),
            "cmax": max(*numbers, 1e-3),
            "showscale": not is_globe,
            "colorbar": {
                "title": {"text": "fall of loss, nats", "side": "top", "font": {"size": 12}},
                "orientation": "h", "thickness": 10, "len": 0.6, "y": -0.02, "yanchor": "top",
            },
        }  # fmt: skip
    rim = {"type": "scattergeo", "hoverinfo": "skip", "showlegend": False, "mode": "lines"}
    coast_lon: list[float | None] = []
    coast_lat: list[float | None] = []
    for line in coastlines():
        coast_lon += [*line[:, 0].round(1).tolist(), None]
        coast_lat += [*line[:, 1].round(1).tolist(), None]
    data = [
        rim | {"name": "coast", "lon": coast_lon, "lat": coast_lat, "line": {"color": GREY, "width": 0.8}},
        rim | {"name": "tracks", "lon": [], "lat": [], "line": {"color": "#56B4E9", "width": 1.2}},
        rim | {"name": "links", "lon": [], "lat": [], "line": {"color": "#D55E00", "width": 2.5}},
        {
            "type": "scattergeo",
            "name": "clusters",
            "mode": "markers+text" if len(scene.clusters) <= 16 else "markers",
            "lon": [cluster.longitude_deg for cluster in scene.clusters],
            "lat": [cluster.latitude_deg for cluster in scene.clusters],
            "text": [cluster.name for cluster in scene.clusters],
            "textposition": _text_positions(scene.clusters),
            "textfont": {"size": 12},
            "hovertext": [
                f"<b>{c.name}</b>: {c.num_devices} devices, {c.domain}"
                + (f"<br>loss fell by {gains[c.name]:.3f}" if c.name in gains else "")
                for c in scene.clusters
            ],
            "hoverinfo": "text",
            "marker": marker,
            "showlegend": False,
        },
        {
            "type": "scattergeo",
            "name": "satellites",
            "mode": "markers",
            "lon": [],
            "lat": [],
            "hovertext": [],
            "hoverinfo": "text",
            "marker": {
                "size": 11,
                "symbol": "diamond",
                "color": "#E69F00",
                "line": {"width": 1, "color": "text"},
            },
            "showlegend": False,
        },
    ]
    geo: dict[str, Any] = {
        # Plotly would fetch its own outlines of the world; without base layers it asks for nothing.
        "visible": False,
        "projection": {"type": projection},
        "lonaxis": {"showgrid": True, "dtick": 30, "gridwidth": 0.5},
        "lataxis": {"showgrid": True, "dtick": 30, "gridwidth": 0.5},
        "showframe": True,
        "framewidth": 1,
        "bgcolor": "rgba(0,0,0,0)",
    }
    if is_globe:
        geo["projection"]["rotation"] = {"lon": _middle_longitude(scene.clusters), "lat": 20}
    margin = {"l": 0, "r": 0, "t": 0, "b": 0 if is_globe else 46}
    return {"data": data, "layout": {"geo": geo, "margin": margin, "showlegend": False, "dragmode": "pan"}}


def _middle_longitude(clusters: Sequence[ClusterScene]) -> float:
    return clusters[0].longitude_deg if clusters else 0.0


def _text_positions(clusters: Sequence[ClusterScene]) -> list[str]:
    """Return where each name stands: away from the edge of the map."""
    return [
        "middle left" if (cluster.longitude_deg + 180.0) % 360.0 > 300.0 else "middle right"
        for cluster in clusters
    ]


def _moving(scene: Scene, history: History, end_s: float) -> dict[str, Any]:
    """Return what the slider needs, as the page's script reads it."""
    return {
        "start_utc": scene.start_utc,
        "end_s": end_s,
        "step_s": scene.track_step_s,
        "satellites": [track.satellite for track in scene.tracks],
        "lon": [track.longitude_deg for track in scene.tracks],
        "lat": [track.latitude_deg for track in scene.tracks],
        "clusters": [
            {
                "name": cluster.name,
                "devices": cluster.num_devices,
                "passes": _passes(scene, cluster, history.passes.get(cluster.name, {})),
                "training": thinned(history.training_now(cluster.name, end_s), MOST_STEPS),
            }
            for cluster in scene.clusters
        ],
    }


def _passes(scene: Scene, cluster: ClusterScene, traffic: Mapping[float, PassTraffic]) -> list[list[Any]]:
    number = {track.satellite: at for at, track in enumerate(scene.tracks)}
    rows = []
    for contact in cluster.passes:
        row: list[Any] = [round(contact.rise_s), round(contact.set_s)]
        row.append([number[name] for name in contact.satellites if name in number])
        crossed = traffic.get(contact.rise_s)
        for transfer in (crossed.down, crossed.up) if crossed else ():
            to_s = min(transfer.to_s, contact.set_s)
            from_s = min(transfer.from_s, to_s)
            row += [round(from_s), round(to_s), round(transfer.num_bytes)]
        rows.append(row)
    return rows


def thinned(steps: list[tuple[float, int]], most: int) -> list[tuple[int, int]]:
    """Return at most ``most`` steps of a staircase: every k-th, so that it still ends where it did."""
    stride = max(1, -(-len(steps) // most))
    kept = steps[::stride]
    if steps and kept[-1] != steps[-1]:
        kept.append(steps[-1])
    return [(round(time_s), count) for time_s, count in kept]
