import datetime as dt
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sgp4.api import Satrec, SatrecArray

from sim.orbits.elements import checksum, parse_tle, read_elements, read_tle
from sim.orbits.orbit import Satellite, julian_date, propagate, sidereal_angle_rad
from sim.orbits.walker import walker

TWO_TENTHS_OF_A_MILLIMETRE = 2e-7  # km
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ISS = (
    "ISS (ZARYA)\n"
    "1 25544U 98067A   21030.50133291  .00001366  00000-0  33038-4 0  9995\n"
    "2 25544  51.6460 321.7500 0002407 311.0131 158.6890 15.48935316267212\n"
)


def fixed(line: str) -> str:
    """Give a line the checksum it adds up to."""
    return line[:68] + str(checksum(line))


ISS = "\n".join(fixed(line) if line[:2] in ("1 ", "2 ") else line for line in ISS.splitlines())


def test_the_sgp4_verification_set_replays(shared_data: Path) -> None:
    # Vallado et al. 2006, AIAA 2006-6753: 33 satellites, states printed to 1e-8 km.
    folder = shared_data / "orbits/sgp4_verification"
    lines = (folder / "SGP4-VER.TLE").read_text().splitlines()
    records = {}
    for one, two in pairwise(lines):
        if one.startswith("1 ") and two.startswith("2 "):
            records[int(one[2:7])] = Satrec.twoline2rv(one[:69], two[:69])
    worst_km, rows = 0.0, 0
    failed: list[int] = []
    record = None
    for line in (folder / "tcppver.out").read_text().splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1] == "xx":
            record = records[int(fields[0])]
        elif record is not None:
            minutes, *expected_km = (float(field) for field in fields[:4])
            jd, fraction = record.jdsatepoch, record.jdsatepochF + minutes / 1440.0
            error, position_km, _ = SatrecArray([record]).sgp4(np.array([jd]), np.array([fraction]))
            if error[0, 0]:  # 33334 fails on purpose; the file repeats the line before it
                failed.append(record.satnum)
                continue
            worst_km = max(worst_km, float(np.abs(position_km[0, 0] - expected_km).max()))
            rows += 1
    assert (rows, failed) == (666, [33334])
    assert worst_km < TWO_TENTHS_OF_A_MILLIMETRE


def test_earth_fixed_positions_agree_with_skyfield(shared_data: Path) -> None:
    skyfield = pytest.importorskip("skyfield.api")
    from skyfield.framelib import itrs  # only with skyfield

    path = shared_data / "orbits/truth_20sats.tle"
    satellites = read_tle(path)
    timescale = skyfield.load.timescale(builtin=True)
    start = dt.datetime(2021, 1, 31, tzinfo=dt.UTC)
    seconds = np.arange(0.0, 86_400.0, 7_200.0)
    times = timescale.utc(2021, 1, 31, 0, 0, seconds)
    ours = propagate(satellites, start, seconds, ut1_utc_s=float(times.dut1[0]))
    for row, satellite in enumerate(satellites):
        theirs = skyfield.EarthSatellite.from_satrec(satellite.record, timescale).at(times)
        position, velocity = theirs.frame_xyz_and_velocity(itrs)
        # TEME by GMST-82 against skyfield's full chain: 0.2 m in low orbit, more only with the radius.
        radius_km = np.linalg.norm(ours.position_km[row], axis=1)
        error_km = np.abs(ours.position_km[row] - position.km.T).max(axis=1)
        assert (error_km < 2e-7 * radius_km).all()
        assert np.abs(ours.velocity_km_per_s[row] - velocity.km_per_s.T).max() < 1e-5


def test_the_earth_turns_once_a_sidereal_day() -> None:
    # Aoki et al. 1982: GMST at 2000-01-01 12h UT1 is 18 h 41 m 50.54841 s.
    angle = sidereal_angle_rad(2451545.0, np.array([0.0]))[0]
    assert angle * 43_200.0 / math.pi == pytest.approx(67_310.54841, abs=1e-4)
    later = sidereal_angle_rad(2451545.0, np.array([86_164.0905 / 86_400.0]))[0]
    assert later == pytest.approx(angle, abs=1e-7)


def test_velocity_is_the_derivative_of_position() -> None:
    satellites = walker(
        total=3, planes=3, phasing=1, inclination_deg=50, altitude_km=600, epoch=EPOCH
    ) + parse_tle(ISS)
    time_s = np.array([-0.5, 0.0, 0.5]) + 1000.0
    states = propagate(satellites, dt.datetime(2021, 1, 31, tzinfo=dt.UTC), time_s)
    difference = states.position_km[:, 2] - states.position_km[:, 0]
    assert np.abs(difference - states.velocity_km_per_s[:, 1]).max() < 2e-5


@settings(max_examples=30, deadline=None)
@given(
    planes=st.integers(1, 8),
    per_plane=st.integers(1, 6),
    phasing=st.integers(0, 7),
    inclination_deg=st.floats(0.0, 180.0),
    altitude_km=st.floats(400.0, 36_000.0),
    star=st.booleans(),
)
def test_a_walker_constellation_keeps_its_altitude_inclination_and_spacing(
    planes: int, per_plane: int, phasing: int, inclination_deg: float, altitude_km: float, star: bool
) -> None:
    phasing %= planes
    total = planes * per_plane
    satellites = walker(
        total=total,
        planes=planes,
        phasing=phasing,
        inclination_deg=inclination_deg,
        altitude_km=altitude_km,
        epoch=EPOCH,
        pattern="star" if star else "delta",
        model="two-body",
    )
    states = propagate(satellites, EPOCH, np.array([0.0, 5_000.0]))
    radius_km = np.linalg.norm(states.position_km, axis=2)
    assert np.abs(radius_km - 6378.137 - altitude_km).max() < 1e-6
    for number, satellite in enumerate(satellites):
        plane, slot = divmod(number, per_plane)
        spread = 180.0 if star else 360.0
        assert math.degrees(satellite.record.nodeo) == pytest.approx(plane * spread / planes)
        anomaly = (slot * 360.0 / per_plane + plane * phasing * 360.0 / total) % 360.0
        assert math.degrees(satellite.record.mo) == pytest.approx(anomaly, abs=1e-9)
    assert len({satellite.name for satellite in satellites}) == total


def test_sgp4_walker_orbits_have_the_altitude_asked_for_and_the_nodal_period() -> None:
    # walker_truth.csv: 53 deg, 550 km: nodal period 5,735.45 s, RAAN drift -4.489 deg a day.
    satellite = walker(total=1, planes=1, phasing=0, inclination_deg=53, altitude_km=550, epoch=EPOCH)
    time_s = np.arange(0.0, 86_400.0, 1.0)
    record = satellite[0].record
    whole, fraction = julian_date(EPOCH)
    _, teme, _ = SatrecArray([record]).sgp4(np.full_like(time_s, whole), fraction + time_s / 86_400.0)
    altitude_km = np.linalg.norm(teme[0], axis=1) - 6378.137
    assert altitude_km.mean() == pytest.approx(550.0, abs=1.0)
    z = teme[0][:, 2]
    up = np.flatnonzero((z[:-1] < 0) & (z[1:] >= 0))
    crossing_s = time_s[up] - z[up] / (z[up + 1] - z[up])
    assert np.diff(crossing_s).mean() == pytest.approx(5735.45, abs=0.5)
    node_deg = np.degrees(np.unwrap(np.arctan2(teme[0][up, 1], teme[0][up, 0])))
    drift = (node_deg[-1] - node_deg[0]) / (crossing_s[-1] - crossing_s[0]) * 86_400.0
    assert drift == pytest.approx(-4.489, abs=0.02)


def test_the_shared_walker_file_is_the_same_constellation(shared_data: Path) -> None:
    theirs = read_tle(shared_data / "orbits/walker_24_3_1_56deg_600km.tle")
    ours = walker(total=24, planes=3, phasing=1, inclination_deg=56, altitude_km=600, epoch=theirs[0].epoch)
    time_s = np.array([0.0])
    start = theirs[0].epoch
    one, other = (propagate(s, start, time_s).position_km[:, 0] for s in (theirs, ours))
    assert np.linalg.norm(one - other, axis=1).max() < 10.0  # they skip the Kozai correction: 5 km


def test_impossible_walker_numbers_are_all_named() -> None:
    with pytest.raises(ValueError, match="must be >= 1 and divide the 10 satellites, got 3") as caught:
        walker(total=10, planes=3, phasing=3, inclination_deg=200.0, altitude_km=50.0, epoch=EPOCH)
    for field in ("phasing must be in", "inclination_deg", "altitude_km"):
        assert field in str(caught.value)


def test_an_orbit_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"altitude_km must be in \[160, 50000\], got 60000"):
        walker(total=1, planes=1, phasing=0, inclination_deg=0.0, altitude_km=60_000.0, epoch=EPOCH)


def test_a_two_body_ellipse_keeps_its_energy_and_its_plane() -> None:
    one, two = ISS.splitlines()[1:]
    high = fixed(two[:26] + "6566498" + two[33:52] + " 2.00603170" + two[63:])
    record = parse_tle(f"{one}\n{high}")[0].record
    ellipse = Satellite(name="molniya", record=record, model="two-body")
    time_s = np.arange(0.0, 43_000.0, 500.0)
    start = ellipse.epoch
    states = propagate([ellipse], start, time_s)
    position_km, velocity = states.position_km[0], states.velocity_km_per_s[0].copy()
    # Back to a frame that does not turn: add omega x r.
    omega = 7.292115146706979e-5
    velocity[:, 0] -= omega * position_km[:, 1]
    velocity[:, 1] += omega * position_km[:, 0]
    radius_km = np.linalg.norm(position_km, axis=1)
    axis_km = (398_600.4418 / (2.00603170 * 2.0 * math.pi / 86_400.0) ** 2) ** (1.0 / 3.0)
    assert radius_km.min() == pytest.approx(axis_km * (1.0 - 0.6566498), rel=0.01)
    assert radius_km.max() == pytest.approx(axis_km * (1.0 + 0.6566498), rel=0.01)
    energy = 0.5 * (velocity**2).sum(axis=1) - 398_600.4418 / radius_km
    assert energy == pytest.approx(-398_600.4418 / (2.0 * axis_km), rel=1e-9)
    momentum = np.linalg.norm(np.cross(position_km, velocity), axis=1)
    assert momentum == pytest.approx(math.sqrt(398_600.4418 * axis_km * (1.0 - 0.6566498**2)), rel=1e-9)


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        julian_date(dt.datetime(2026, 1, 1))


def test_a_ut1_difference_beyond_a_leap_second_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ut1_utc_s must be in \(-1, 1\), got nan"):
        propagate(parse_tle(ISS), EPOCH, np.array([0.0]), ut1_utc_s=math.nan)


def test_tle_with_and_without_names_and_with_a_zero_before_the_name() -> None:
    name, one, two = ISS.splitlines()
    assert parse_tle(ISS)[0].name == "ISS (ZARYA)"
    assert parse_tle(f"0 {name}\r\n{one}  \r\n\r\n{two}\r\n")[0].name == "ISS (ZARYA)"
    assert parse_tle(f"# a comment\n{one}\n{two}\n")[0].name == "25544"
    assert parse_tle(ISS)[0].epoch == dt.datetime(2021, 1, 30, 12, 1, 55, 163424, dt.UTC)


def test_satellites_of_one_name_are_told_apart_by_number() -> None:
    name, one, two = ISS.splitlines()
    other = [fixed(line.replace("25544", "25545", 1)) for line in (one, two)]
    names = [s.name for s in parse_tle("\n".join([name, one, two, name, *other]))]
    assert names == ["ISS (ZARYA) 25544", "ISS (ZARYA) 25545"]


def test_every_shared_element_file_is_read(shared_data: Path) -> None:
    counts = {
        path.name: len(read_elements(path))
        for path in sorted((shared_data / "orbits/celestrak_2026-08-22").glob("*.txt"))
    }
    assert counts["starlink.txt"] == 2500
    assert counts["oneweb.txt"] == 651


def damage(which: int, first: int, text: str, *, fix: bool = True) -> str:
    lines = ISS.splitlines()
    line = lines[which][: first - 1] + text + lines[which][first - 1 + len(text) :]
    lines[which] = fixed(line) if fix else line
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (damage(1, 20, "9", fix=False), r"line 2: checksum \(column 69\) is '\d', the line adds up to \d"),
        (damage(2, 9, " 51.64x0"), r"line 3: inclination \(columns 9-16\) is not well formed, got '51.64x0'"),
        (damage(2, 9, "251.6460"), r"line 3: inclination must be in \[0, 180\], got 251.6460"),
        (damage(2, 27, "00 2407"), r"line 3: eccentricity \(columns 27-33\) is not well formed"),
        (damage(2, 53, "25.48935316"), r"line 3: mean motion must be in"),
        (damage(2, 3, "25545"), "line 3: catalogue number '25545' is not that of line 2, '25544'"),
        (ISS[:-5], "line 3: a line of a TLE has 69 ASCII characters, this one has 64"),
        (ISS + "\n" + ISS, "line 5: satellite 25544 is already on line 2"),
        ("\n".join(ISS.splitlines()[:2]), "line 2: a first line without its second line"),
        (ISS.splitlines()[2], "line 1: a second line without its first line"),
        ("hello\nworld\n" + ISS, "line 1: 'hello' is no element line"),
        ("", "no element sets found"),
    ],
)
def test_a_damaged_tle_is_refused_with_line_and_field(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tle(text, source="file.tle")


def test_an_absent_element_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no element file at"):
        read_elements(tmp_path / "none.tle")
