"""Walker constellations: many circular orbits from six numbers."""

import datetime as dt
import math
from typing import Literal

from sgp4.api import WGS72, Satrec

from sim.faults import raise_faults
from sim.orbits.orbit import EARTH_RADIUS_KM, MU_KM3_PER_S2, Satellite, julian_date
from sim.orbits.records import SGP4_EPOCH

# WGS72 values of SGP4: they undo the Kozai mean motion below.
_WGS72_MU_KM3_PER_S2, _WGS72_RADIUS_KM, _WGS72_J2 = 398600.8, 6378.135, 0.001082616


def walker(
    *,
    total: int,
    planes: int,
    phasing: int,
    inclination_deg: float,
    altitude_km: float,
    epoch: dt.datetime,
    pattern: Literal["delta", "star"] = "delta",
    model: Literal["sgp4", "two-body"] = "sgp4",
) -> tuple[Satellite, ...]:
    """Return a Walker constellation ``total/planes/phasing`` of circular orbits.

    Plane p, slot s has its ascending node at ``p * spread / planes`` and its mean anomaly at
    ``s * 360 * planes / total + p * phasing * 360 / total``; the nodes spread over 360 degrees
    (delta) or 180 (star, where neighbours move alike except over the seam).

    Parameters
    ----------
    total, planes, phasing : int
        ``planes`` divides ``total``; ``phasing`` in [0, planes).
    inclination_deg : float
        In [0, 180].
    altitude_km : float
        Mean semi-major axis less the equatorial radius, in [160, 50000]; lower orbits decay within days.
        The Earth's flattening lets the true height of an ``sgp4`` orbit differ by up to 10 km.
    epoch : datetime
        When the first satellite crosses its node, at right ascension 0. UTC, with a time zone.
    pattern : {"delta", "star"}
    model : {"sgp4", "two-body"}
        No drag in either; ``sgp4`` turns the planes by the Earth's flattening.

    Returns
    -------
    tuple[Satellite, ...]
        Named ``P01-S01`` and so on, plane by plane.

    Raises
    ------
    ValueError
        Naming every impossible number at once.

    Source
    ------
    Walker, J. G., "Satellite constellations", J. Brit. Interplanetary Soc. 37, 1984, 559-571.
    """
    raise_faults(_walker_faults(total, planes, phasing, inclination_deg, altitude_km, pattern))
    spread_deg = {"delta": 360.0, "star": 180.0}[pattern]
    per_plane = total // planes
    satellites = []
    for number in range(total):
        plane, slot = divmod(number, per_plane)
        record = _circular_record(
            number=number + 1,
            epoch=epoch,
            inclination_deg=inclination_deg,
            altitude_km=altitude_km,
            raan_deg=plane * spread_deg / planes,
            anomaly_deg=(slot * 360.0 / per_plane + plane * phasing * 360.0 / total) % 360.0,
            model=model,
        )
        satellites.append(Satellite(name=f"P{plane + 1:02d}-S{slot + 1:02d}", record=record, model=model))
    return tuple(satellites)


def _walker_faults(
    total: int, planes: int, phasing: int, inclination_deg: float, altitude_km: float, pattern: str
) -> list[str]:
    """Return what is wrong with a Walker constellation."""
    faults = []
    if pattern not in ("delta", "star"):
        faults.append(f"the Walker pattern must be 'delta' or 'star', got {pattern!r}")
    if not 1 <= total <= 99_999:
        faults.append(f"a Walker constellation needs 1 to 99999 satellites, got {total}")
    if planes < 1 or total % max(planes, 1):
        faults.append(f"the number of planes must be >= 1 and divide the {total} satellites, got {planes}")
    if not 0 <= phasing < max(planes, 1):
        faults.append(f"Walker phasing must be in [0, planes), got {phasing} for {planes} planes")
    if not 0.0 <= inclination_deg <= 180.0:
        faults.append(f"inclination_deg must be in [0, 180], got {inclination_deg}")
    if not 160.0 <= altitude_km <= 50_000.0:
        faults.append(
            f"altitude_km must be in [160, 50000], got {altitude_km}; lower orbits decay within days"
        )
    return faults


def _circular_record(
    *,
    number: int,
    epoch: dt.datetime,
    inclination_deg: float,
    altitude_km: float,
    raan_deg: float,
    anomaly_deg: float,
    model: str,
) -> Satrec:
    """Return the elements of one circular orbit without drag."""
    axis_km = EARTH_RADIUS_KM + altitude_km
    inclination_rad = math.radians(inclination_deg)
    if model == "two-body":
        mean_motion_rad_per_s = math.sqrt(MU_KM3_PER_S2 / axis_km**3)
    else:
        # SGP4 takes Kozai's mean motion and derives Brouwer's: invert that, or the orbit is ~ 5 km off.
        kozai = 0.75 * _WGS72_J2 * (3.0 * math.cos(inclination_rad) ** 2 - 1.0)
        mean_motion_rad_per_s = math.sqrt(_WGS72_MU_KM3_PER_S2 / axis_km**3) * (
            1.0 + kozai * (_WGS72_RADIUS_KM / axis_km) ** 2
        )
    jd_whole, jd_fraction = julian_date(epoch)
    epoch_days = (epoch - SGP4_EPOCH) / dt.timedelta(days=1)
    record = Satrec()
    record.sgp4init(
        WGS72,
        "i",
        number,
        epoch_days,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        inclination_rad,
        math.radians(anomaly_deg),
        mean_motion_rad_per_s * 60.0,
        math.radians(raan_deg),
    )
    # A sum of days keeps only 5e-7 s of 76 years; the split date keeps all of it.
    record.jdsatepoch, record.jdsatepochF = jd_whole, jd_fraction
    return record
