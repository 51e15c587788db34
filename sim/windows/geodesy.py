"""Sites on the WGS84 ellipsoid as Earth-fixed vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.population import Cluster

FloatArray = NDArray[np.float64]

# World Geodetic System 1984, NIMA TR8350.2.
_AXIS_KM = 6378.137
_FLATTENING = 1.0 / 298.257223563


class Sites(NamedTuple):
    """Sites as vectors from the Earth's centre, the normals of the ellipsoid there, and the masks."""

    position_km: FloatArray  # [site, 3]
    normal: FloatArray  # [site, 3]
    mask_deg: FloatArray  # [site]


def site_vectors(sites: Sequence[Cluster]) -> Sites:
    """Return geodetic sites as Earth-fixed vectors (WGS84)."""
    latitude, longitude = (
        np.radians([getattr(site, name) for site in sites]) for name in ("latitude_deg", "longitude_deg")
    )
    altitude_km = np.array([site.altitude_m for site in sites]) / 1000.0
    normal = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )
    eccentricity_squared = _FLATTENING * (2.0 - _FLATTENING)
    prime_km = _AXIS_KM / np.sqrt(1.0 - eccentricity_squared * np.sin(latitude) ** 2)
    scale = np.stack([prime_km, prime_km, prime_km * (1.0 - eccentricity_squared)], axis=1)
    return Sites(
        position_km=(scale + altitude_km[:, None]) * normal,
        normal=normal,
        mask_deg=np.array([site.elevation_mask_deg for site in sites], dtype=np.float64),
    )


def site_positions_km(sites: Sequence[Cluster]) -> FloatArray:
    """Return the Earth-fixed positions of sites on the WGS84 ellipsoid, [site, 3] in km."""
    return site_vectors(sites).position_km
