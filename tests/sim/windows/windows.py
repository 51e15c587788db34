"""What the window tests share: a site in one line, and elevations the slow way."""

import datetime as dt
import math

import numpy as np

from sim.orbits.elements import checksum, parse_tle
from sim.orbits.orbit import Satellite, propagate
from sim.orbits.walker import walker
from sim.population import Cluster
from sim.windows.geodesy import site_positions_km

DAY_S = 86_400.0
TRUTH_START = dt.datetime(2021, 1, 31, tzinfo=dt.UTC)
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MOLNIYA = (
    "MOLNIYA 2-10\n"
    "1 07376U 74056A   21029.54236434  .00000064  00000-0  00000-0 0  9990\n"
    "2 07376  64.5113 331.4700 6566498 284.5553  14.3000  2.00603170341380\n"
)


def site(latitude_deg: float, longitude_deg: float, mask_deg: float, altitude_m: float = 0.0) -> Cluster:
    return Cluster(
        name="here",
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        altitude_m=altitude_m,
        elevation_mask_deg=mask_deg,
    )


def elevations_deg(satellite: Satellite, here: Cluster, start: dt.datetime, time_s: np.ndarray) -> np.ndarray:
    """Elevation by the definition: the slow reference of the tests."""
    rho = propagate([satellite], start, time_s).position_km[0] - site_positions_km([here])[0]
    latitude, longitude = math.radians(here.latitude_deg), math.radians(here.longitude_deg)
    normal = [
        math.cos(latitude) * math.cos(longitude),
        math.cos(latitude) * math.sin(longitude),
        math.sin(latitude),
    ]
    result: np.ndarray = np.degrees(np.arcsin(rho @ normal / np.linalg.norm(rho, axis=1)))
    return result


def geostationary(longitude_deg: float) -> tuple[Satellite, ...]:
    """Return a satellite over the equator that stays near a longitude (two-body, one sidereal day)."""
    altitude_km = (398600.4418 * (86_164.0905 / (2.0 * math.pi)) ** 2) ** (1.0 / 3.0) - 6378.137
    east = walker(
        total=360,
        planes=1,
        phasing=0,
        inclination_deg=0,
        altitude_km=altitude_km,
        epoch=EPOCH,
        model="two-body",
    )
    at = propagate(east, EPOCH, np.array([0.0])).position_km[:, 0]
    longitudes = np.degrees(np.arctan2(at[:, 1], at[:, 0]))
    return (east[int(np.argmin(np.abs((longitudes - longitude_deg + 180.0) % 360.0 - 180.0)))],)


def nasty_skies() -> list[tuple[str, Satellite, Cluster, dt.datetime]]:
    lines = MOLNIYA.splitlines()
    heo = parse_tle("\n".join([lines[0], *(x[:68] + str(checksum(x)) for x in lines[1:])]))[0]
    gps = walker(total=1, planes=1, phasing=0, inclination_deg=55, altitude_km=20_180, epoch=EPOCH)[0]
    low = walker(total=1, planes=1, phasing=0, inclination_deg=97, altitude_km=400, epoch=EPOCH)[0]
    return [
        ("meo", gps, site(45.0, 10.0, 5.0), EPOCH),
        ("heo north", heo, site(60.0, 20.0, 10.0), TRUTH_START),
        ("heo arctic", heo, site(78.2, 15.6, 30.0), TRUTH_START),
        ("heo south", heo, site(-54.8, -68.3, 5.0), TRUTH_START),
        ("heo equator", heo, site(-0.1, 30.0, 40.0), TRUTH_START),
        ("leo pole", low, site(89.9, 0.0, 0.0), EPOCH),
        ("leo high mask", low, site(30.0, 50.0, 60.0), EPOCH),
        ("leo horizon", low, site(-10.0, -170.0, 0.0), EPOCH),
    ]
