import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.orbits.elements import parse_tle, read_tle
from sim.orbits.walker import walker
from sim.population import Cluster
from sim.sites import default_clusters
from sim.windows.finder import (
    ContactWindow,
    LeftOut,
    find_window_blocks,
    find_window_table,
    find_windows,
)
from tests.sim.windows.windows import (
    DAY_S,
    EPOCH,
    TRUTH_START,
    elevations_deg,
    geostationary,
    nasty_skies,
    site,
)

TEN_MILLISECONDS = 0.010
TRUTH_UT1_UTC_S = -0.1667  # of the truth file, see its README


def truth_rows(shared_data: Path, mask_deg: float) -> list[dict[str, str]]:
    path = next((shared_data / "orbits").glob("truth_windows_20x*.csv"))
    with path.open() as stream:
        return [row for row in csv.DictReader(stream) if float(row["mask_deg"]) == mask_deg]


def truth_sites(rows: list[dict[str, str]], mask_deg: float) -> list[Cluster]:
    sites = {
        row["site"]: Cluster(
            name="-".join(row["site"].split()),
            latitude_deg=float(row["lat_deg"]),
            longitude_deg=float(row["lon_deg"]),
            altitude_m=float(row["alt_m"]),
            elevation_mask_deg=mask_deg,
        )
        for row in rows
    }
    return list(sites.values())


@pytest.mark.parametrize("mask_deg", [10.0, 25.0])
def test_every_window_of_the_truth_file_is_found_and_none_invented(
    shared_data: Path, mask_deg: float
) -> None:
    rows = truth_rows(shared_data, mask_deg)
    windows = find_windows(
        read_tle(shared_data / "orbits/truth_20sats.tle"),
        truth_sites(rows, mask_deg),
        start=TRUTH_START,
        span_s=DAY_S,
        ut1_utc_s=TRUTH_UT1_UTC_S,
    )
    expected = {
        (row["satellite"], "-".join(row["site"].split()), round(float(row["tmax_s"]) / 30.0)): row
        for row in rows
    }
    assert len(windows) == len(rows) == len(expected)
    found = sorted(windows, key=lambda w: (w.satellite, w.site, w.rise_s))
    wanted = sorted(rows, key=lambda r: (r["satellite"], "-".join(r["site"].split()), float(r["rise_s"])))
    for window, row in zip(found, wanted, strict=True):
        assert (window.satellite, window.site) == (row["satellite"], "-".join(row["site"].split()))
        assert window.rise_s == pytest.approx(float(row["rise_s"]), abs=TEN_MILLISECONDS)
        assert window.set_s == pytest.approx(float(row["set_s"]), abs=TEN_MILLISECONDS)
        assert window.max_elevation_deg == pytest.approx(float(row["max_el_deg"]), abs=1e-3)
        assert (str(window.rise_clipped), str(window.set_clipped)) == (
            row["rise_clipped"],
            row["set_clipped"],
        )


def test_the_pass_that_a_careless_newton_loses_is_kept(shared_data: Path) -> None:
    # notes: STARLINK-1050 of 2021-01-30, mask 10 deg: 55,995.97 to 56,024.44 s of 2021-01-31.
    satellites = [
        s
        for s in read_tle(shared_data / "orbits/celestrak_2021-01-30/starlink.txt")
        if s.name == "STARLINK-1050"
    ]
    here = site(49.92126972, 102.69862280, 10.0, 1471.911)
    windows = find_windows(satellites, [here], start=TRUTH_START, span_s=DAY_S, ut1_utc_s=TRUTH_UT1_UTC_S)
    short = [w for w in windows if w.set_s - w.rise_s < 60.0]
    assert [(round(w.rise_s, 1), round(w.set_s, 1)) for w in short] == [(55_996.0, 56_024.4)]


@settings(max_examples=25, deadline=None)
@given(
    latitude_deg=st.floats(-90.0, 90.0),
    longitude_deg=st.floats(-180.0, 180.0),
    mask_deg=st.floats(0.0, 80.0),
    inclination_deg=st.floats(0.0, 180.0),
    altitude_km=st.floats(300.0, 3_000.0),
    step_s=st.floats(10.0, 90.0),
)
def test_windows_are_sorted_disjoint_and_above_the_mask_inside_only(
    latitude_deg: float,
    longitude_deg: float,
    mask_deg: float,
    inclination_deg: float,
    altitude_km: float,
    step_s: float,
) -> None:
    satellite = walker(
        total=1,
        planes=1,
        phasing=0,
        inclination_deg=inclination_deg,
        altitude_km=altitude_km,
        epoch=EPOCH,
    )[0]
    here = site(latitude_deg, longitude_deg, mask_deg)
    span_s = DAY_S / 2.0
    windows = find_windows([satellite], [here], start=EPOCH, span_s=span_s, step_s=step_s)
    edges = [edge for w in windows for edge in (w.rise_s, w.set_s)]
    assert edges == sorted(edges)
    time_s = np.arange(0.0, span_s, 20.0)
    inside = np.zeros(len(time_s), dtype=bool)
    for w in windows:
        inside |= (time_s >= w.rise_s) & (time_s < w.set_s)
    elevation_deg = elevations_deg(satellite, here, EPOCH, time_s)
    hair_deg = 1e-3
    assert (elevation_deg[inside] >= mask_deg - hair_deg).all()
    assert (elevation_deg[~inside] <= mask_deg + hair_deg).all()
    for w in windows:
        own = elevation_deg[(time_s >= w.rise_s) & (time_s < w.set_s)]
        assert w.max_elevation_deg >= max([mask_deg, *own]) - hair_deg


def test_the_result_does_not_depend_on_how_the_work_is_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    satellites = walker(total=12, planes=3, phasing=1, inclination_deg=70, altitude_km=700, epoch=EPOCH)
    sites = [
        Cluster(
            name=f"s{i}",
            latitude_deg=10.0 * i - 60.0,
            longitude_deg=25.0 * i,
            elevation_mask_deg=5.0 * (i % 3),
        )
        for i in range(13)
    ]
    whole = find_windows(satellites, sites, start=EPOCH, span_s=DAY_S)
    monkeypatch.setattr("sim.windows.finder._MAX_NODES", 3_000)
    monkeypatch.setattr("sim.windows.passes._MAX_SCREENED", 7_000)
    assert find_windows(satellites, sites, start=EPOCH, span_s=DAY_S) == whole
    alone = [w for s in satellites for h in sites for w in find_windows([s], [h], start=EPOCH, span_s=DAY_S)]
    order = {s.name: i for i, s in enumerate(sites)}
    assert sorted(alone, key=lambda w: (order[w.site], w.satellite, w.rise_s)) == list(whole)


def test_a_decayed_satellite_is_reported_and_left_out(shared_data: Path) -> None:
    good = walker(total=1, planes=1, phasing=0, inclination_deg=60, altitude_km=600, epoch=TRUTH_START)
    # Verification satellite 28872 (Minotaur rocket body) decays within an hour of its epoch.
    lines = (shared_data / "orbits/sgp4_verification/SGP4-VER.TLE").read_text().splitlines()
    decaying = parse_tle("\n".join(line[:69] for line in lines if line[2:7] == "28872"))
    start = decaying[0].epoch
    told: list[LeftOut] = []
    windows = find_windows(
        [*decaying, *good], [site(0.0, 0.0, 5.0)], start=start, span_s=DAY_S, on_left_out=told.append
    )
    assert {w.satellite for w in windows} == {"P01-S01"}
    assert [t.satellite for t in told] == ["28872"]
    assert "its elements are of 2005-11-29" in told[0].reason
    assert "decay" in told[0].reason

    assert find_windows(decaying, [site(0.0, 0.0, 5.0)], start=start, span_s=DAY_S) == ()


def test_numba_has_the_same_tolerances() -> None:
    pytest.importorskip("numba")
    from sim.windows import hermite, passes_numba  # only where numba is installed

    for name in ("TOLERANCE", "MAX_ITERATIONS", "HAIR"):
        assert getattr(hermite, name) == getattr(passes_numba, name)


def test_numba_finds_the_same_windows() -> None:
    pytest.importorskip("numba")
    low = walker(total=6, planes=3, phasing=1, inclination_deg=70, altitude_km=600, epoch=EPOCH)
    skies = [(low, EPOCH), (geostationary(20.0), EPOCH)]
    skies += [((satellite,), start) for _, satellite, _, start in nasty_skies()]
    sites = [
        Cluster(
            name=f"s{i}",
            latitude_deg=9.0 * i - 88.0,
            longitude_deg=37.0 * i % 360.0,
            elevation_mask_deg=(0.0, 10.0, 65.0)[i % 3],
        )
        for i in range(20)
    ]
    for some, start in skies:
        one, other = (
            find_window_table(some, sites, start=start, span_s=DAY_S, with_peaks=True, engine=engine)
            for engine in ("numpy", "numba")
        )
        for name in ("site", "satellite", "rise_clipped", "set_clipped"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("rise_s", "set_s", "max_elevation_deg"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=2e-7)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be 'numpy' or 'numba', got 'rust'"):
        find_window_table(
            geostationary(0.0),
            [site(0.0, 0.0, 5.0)],
            start=EPOCH,
            span_s=DAY_S,
            engine="rust",  # type: ignore[arg-type]
        )


def test_blocks_hold_the_rows_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    satellites = walker(total=5, planes=5, phasing=1, inclination_deg=70, altitude_km=700, epoch=EPOCH)
    sites = list(default_clusters(4))
    whole = find_window_table(satellites, sites, start=EPOCH, span_s=DAY_S)
    monkeypatch.setattr("sim.windows.finder._MAX_NODES", 3_000)
    blocks = list(find_window_blocks(satellites, sites, start=EPOCH, span_s=DAY_S))
    assert len(blocks) == 3
    assert sum(len(block.rise_s) for block in blocks) == len(whole.rise_s)
    assert sorted(np.concatenate([block.rise_s for block in blocks])) == sorted(whole.rise_s)


def test_impossible_searches_are_refused_with_everything_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one satellite, got none") as caught:
        find_windows([], [site(0.0, 0.0, 5.0)] * 2, start=EPOCH, span_s=math.nan, step_s=600.0)
    for text in (
        "site names must differ, got more than one of: here",
        "span_s must be in",
        "step_s must be in",
    ):
        assert text in str(caught.value)
    satellite = geostationary(0.0)
    for span_s in (0.0, -1.0, 400 * DAY_S, math.inf):
        with pytest.raises(ValueError, match="span_s must be in"):
            find_windows(satellite, [site(0.0, 0.0, 5.0)], start=EPOCH, span_s=span_s)


def test_the_table_and_the_windows_say_the_same() -> None:
    satellites = walker(total=2, planes=2, phasing=0, inclination_deg=60, altitude_km=600, epoch=EPOCH)
    here = site(50.0, 0.0, 5.0)
    table = find_window_table(satellites, [here], start=EPOCH, span_s=DAY_S)
    windows = find_windows(satellites, [here], start=EPOCH, span_s=DAY_S)
    assert table.max_elevation_deg is None
    assert table.rise_s.tolist() == [w.rise_s for w in windows]
    assert [table.satellites[i] for i in table.satellite] == [w.satellite for w in windows]
    assert isinstance(windows[0], ContactWindow)
