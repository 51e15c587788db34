"""Satellites: where they come from and where they are, in the Earth-fixed frame.

Propagation is SGP4 (Vallado et al., AIAA 2006-6753) through the ``sgp4`` package's batched C++, or a
plain Kepler ellipse for comparison with studies that use one. TEME turns into Earth-fixed by GMST-82
of UT1 alone: polar motion (< 0.3 arcsec, 10 m) is left out.
"""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sgp4.api import SGP4_ERRORS, Satrec, SatrecArray

FloatArray = NDArray[np.float64]

MU_KM3_PER_S2 = 398600.4418  # WGS84
EARTH_RADIUS_KM = 6378.137  # WGS84 equatorial
EARTH_RATE_RAD_PER_S = 7.292115146706979e-5  # IERS Conventions 2010, of the rotation in UT1
_J2000_JD = 2451545.0
_UNIX_EPOCH_JD = 2440587.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Satellite:
    """One satellite and its mean elements.

    Parameters
    ----------
    name : str
        Unique in its constellation.
    record : Satrec
        The elements, as the ``sgp4`` package keeps them.
    model : {"sgp4", "two-body"}
        ``two-body`` reads the elements as osculating and lets the ellipse stand still.
    decay : datetime, optional
        When it left orbit, where its catalogue says so.
    """

    name: str
    record: Satrec
    model: Literal["sgp4", "two-body"] = "sgp4"
    decay: dt.datetime | None = None

    @property
    def epoch(self) -> dt.datetime:
        """The instant the elements hold for, in UTC (accurate to a microsecond)."""
        days = self.record.jdsatepoch - _UNIX_EPOCH_JD
        return (
            dt.datetime.fromtimestamp(0, dt.UTC)
            + dt.timedelta(days=days)
            + dt.timedelta(days=self.record.jdsatepochF)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ephemeris:
    """Earth-fixed states of satellites on a time grid.

    Parameters
    ----------
    position_km, velocity_km_per_s : float64 [satellite, time, 3]
        The velocity is relative to the rotating Earth.
    error : uint8 [satellite, time]
        0, or the code ``sgp4`` gave (see ``sgp4.api.SGP4_ERRORS``); the state is then meaningless.
    """

    position_km: FloatArray
    velocity_km_per_s: FloatArray
    error: NDArray[np.uint8]


def julian_date(start: dt.datetime) -> tuple[float, float]:
    """Return the whole and the fractional part of the Julian date of an aware instant.

    Raises
    ------
    ValueError
        If ``start`` has no time zone: a local time would move every pass by hours in silence.
    """
    if start.tzinfo is None:
        raise ValueError(f"the start of the scenario needs a time zone, got {start}; write +00:00 for UTC")
    since = start - dt.datetime.fromtimestamp(0, dt.UTC)
    seconds = since.seconds + since.microseconds * 1e-6
    return _UNIX_EPOCH_JD + since.days, seconds / 86400.0


def sidereal_angle_rad(jd_whole: float, jd_fraction: FloatArray) -> FloatArray:
    """Return Greenwich mean sidereal time of UT1 instants, in radians in [0, 2 pi).

    Source: IAU 1982 (Aoki et al. 1982), the convention of TEME: AIAA 2006-6753, appendix C.
    """
    centuries = (jd_whole - _J2000_JD + jd_fraction) / 36525.0
    seconds = 67310.54841 + centuries * (8640184.812866 + centuries * (0.093104 - 6.2e-6 * centuries))
    # 876600 h a century is one turn a day: take it from the date itself, or 1e-7 s is lost.
    turns = (jd_whole % 1.0) + jd_fraction % 1.0 + seconds / 86400.0
    angle: FloatArray = 2.0 * np.pi * (turns % 1.0)
    return angle


def propagate(
    satellites: Sequence[Satellite],
    start: dt.datetime,
    time_s: FloatArray,
    *,
    ut1_utc_s: float = 0.0,
) -> Ephemeris:
    """Return Earth-fixed states of satellites at seconds after ``start``.

    Parameters
    ----------
    satellites : Sequence[Satellite]
        S of them, all of one model or mixed.
    start : datetime
        UTC, with a time zone.
    time_s : float64 [T]
        Seconds after ``start``.
    ut1_utc_s : float
        UT1 - UTC, |.| < 1 s (IERS Bulletin A). Leaving 0.2 s out turns the Earth by 90 m at the equator,
        which moves rises by 10 ms on average and a grazing pass by half a second.

    Returns
    -------
    Ephemeris
        Arrays of S x T states, in the order given.
    """
    if not abs(ut1_utc_s) < 1.0:
        raise ValueError(f"ut1_utc_s must be in (-1, 1), got {ut1_utc_s}; leap seconds keep it there")
    jd_whole, jd_start = julian_date(start)
    jd_fraction = jd_start + np.asarray(time_s, dtype=np.float64) / 86400.0
    shape = (len(satellites), len(jd_fraction), 3)
    position_km, velocity_km_per_s = np.empty(shape), np.empty(shape)
    error = np.zeros(shape[:2], dtype=np.uint8)
    for model in ("sgp4", "two-body"):
        rows = [row for row, satellite in enumerate(satellites) if satellite.model == model]
        if not rows:
            continue
        records = [satellites[row].record for row in rows]
        states = (_sgp4 if model == "sgp4" else _two_body)(records, jd_whole, jd_fraction)
        if len(rows) == len(satellites):
            error, position_km, velocity_km_per_s = states
        else:
            error[rows], position_km[rows], velocity_km_per_s[rows] = states
    angle_rad = sidereal_angle_rad(jd_whole, jd_fraction + ut1_utc_s / 86400.0)
    _rotate_to_earth_fixed(position_km, velocity_km_per_s, angle_rad)
    return Ephemeris(position_km=position_km, velocity_km_per_s=velocity_km_per_s, error=error)


def error_text(code: int) -> str:
    """Return what an SGP4 error code says about the satellite."""
    return str(SGP4_ERRORS.get(code, f"error {code}"))


def _sgp4(
    records: Sequence[Satrec], jd_whole: float, jd_fraction: FloatArray
) -> tuple[NDArray[np.uint8], FloatArray, FloatArray]:
    """Return error, TEME position and velocity of every record at every time."""
    whole = np.full_like(jd_fraction, jd_whole)
    error, position_km, velocity_km_per_s = SatrecArray(list(records)).sgp4(whole, jd_fraction)
    return error, position_km, velocity_km_per_s


def _two_body(
    records: Sequence[Satrec], jd_whole: float, jd_fraction: FloatArray
) -> tuple[NDArray[np.uint8], FloatArray, FloatArray]:
    """Return states on Kepler ellipses that stand still in inertial space."""
    shape = (len(records), len(jd_fraction), 3)
    position_km, velocity_km_per_s = np.empty(shape), np.empty(shape)
    for row, record in enumerate(records):
        days = (jd_whole - record.jdsatepoch) + (jd_fraction - record.jdsatepochF)
        rate = record.no_kozai / 60.0
        mean_rad = record.mo + rate * 86400.0 * days
        eccentric_rad = mean_rad + record.ecco * np.sin(mean_rad)
        for _ in range(12):  # Newton doubles the digits: enough up to e = 0.9
            slope = 1.0 - record.ecco * np.cos(eccentric_rad)
            eccentric_rad -= (eccentric_rad - record.ecco * np.sin(eccentric_rad) - mean_rad) / slope
        axis_km = (MU_KM3_PER_S2 / rate**2) ** (1.0 / 3.0)
        cos_e, sin_e = np.cos(eccentric_rad), np.sin(eccentric_rad)
        minor = math.sqrt(1.0 - record.ecco**2)
        speed = axis_km * rate / (1.0 - record.ecco * cos_e)
        toward, across = _orbit_axes(record)
        position_km[row] = axis_km * (np.outer(cos_e - record.ecco, toward) + np.outer(minor * sin_e, across))
        velocity_km_per_s[row] = speed[:, None] * (np.outer(-sin_e, toward) + np.outer(minor * cos_e, across))
    return np.zeros(shape[:2], dtype=np.uint8), position_km, velocity_km_per_s


def _orbit_axes(record: Satrec) -> tuple[FloatArray, FloatArray]:
    """Return unit vectors toward perigee and 90 degrees ahead of it."""
    cos_w, sin_w = math.cos(record.argpo), math.sin(record.argpo)
    cos_i, sin_i = math.cos(record.inclo), math.sin(record.inclo)
    cos_o, sin_o = math.cos(record.nodeo), math.sin(record.nodeo)
    node = np.array([cos_o, sin_o, 0.0])
    ahead = np.array([-sin_o * cos_i, cos_o * cos_i, sin_i])
    return cos_w * node + sin_w * ahead, cos_w * ahead - sin_w * node


def _rotate_to_earth_fixed(
    position_km: FloatArray, velocity_km_per_s: FloatArray, angle_rad: FloatArray
) -> None:
    """Turn TEME states [S, T, 3] in place; velocities lose omega x r."""
    cos_a, sin_a = np.cos(angle_rad), np.sin(angle_rad)
    for vector in (position_km, velocity_km_per_s):
        x, y = vector[..., 0].copy(), vector[..., 1]
        vector[..., 0] = cos_a * x + sin_a * y
        vector[..., 1] = cos_a * y - sin_a * x
    velocity_km_per_s[..., 0] += EARTH_RATE_RAD_PER_S * position_km[..., 1]
    velocity_km_per_s[..., 1] -= EARTH_RATE_RAD_PER_S * position_km[..., 0]
