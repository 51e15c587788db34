"""Lines on a flat map: coastlines, and tracks cut where a flat map is cut."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# A step that turns so far in longitude passes beside a pole: on a flat map it would be a line along the edge.
_POLE_TURN_DEG = 30.0


def coastlines() -> list[FloatArray]:
    """Return the coastlines as ``[point, (longitude, latitude)]`` in degrees.

    The file lists ``lon, lat, lon, lat, ...`` of each line, without the lines that close a polygon along the
    date line and below Antarctica.
    """
    lines = json.loads(Path(__file__).with_name("coastline.json").read_text(encoding="utf-8"))["lines"]
    return [np.array(line, dtype=np.float64).reshape(-1, 2) for line in lines]


def cut_for_flat_map(longitude_deg: FloatArray, latitude_deg: FloatArray) -> list[FloatArray]:
    """Return a track as pieces that a flat map can draw, ``[point, (longitude, latitude)]`` in degrees.

    A piece that leaves over the date line ends on it, and the next begins on its other side; one that
    passes beside a pole ends there, since the way round the pole has no straight line on such a map.

    Parameters
    ----------
    longitude_deg, latitude_deg : float64 [T]
        Along the track, longitudes in [-180, 180], in steps that turn less than 180 degrees.

    Examples
    --------
    >>> [piece.tolist() for piece in cut_for_flat_map(np.array([170.0, -170.0]), np.array([0.0, 10.0]))]
    [[[170.0, 0.0], [180.0, 5.0]], [[-180.0, 5.0], [-170.0, 10.0]]]
    """
    pieces: list[FloatArray] = []
    points: list[tuple[float, float]] = []
    for longitude, latitude in zip(longitude_deg.tolist(), latitude_deg.tolist(), strict=True):
        if points:
            before, its_latitude = points[-1]
            turn = (longitude - before + 180.0) % 360.0 - 180.0
            if abs(turn) > _POLE_TURN_DEG:
                pieces.append(np.array(points))
                points = []
            elif abs(longitude - before) > 180.0:
                edge = 180.0 if turn > 0 else -180.0
                share = (edge - before) / turn
                crossing = its_latitude + share * (latitude - its_latitude)
                pieces.append(np.array([*points, (edge, crossing)]))
                points = [(-edge, crossing)]
        points.append((longitude, latitude))
    pieces.append(np.array(points).reshape(-1, 2))
    return [piece for piece in pieces if len(piece) > 1]
