"""How fast and how exact the window finder is, beside skyfield in the same process.

The work is 100 real satellites (60 Starlink, 20 Planet, 20 OneWeb of January 2021) x 1,000 sites x 24 h
at a mask of 10 degrees. skyfield does a sample of the same pairs with ``find_events``, in turns with us,
and both are timed in processor seconds, those of all threads together. Accuracy is that of the truth file.

    python -m benchmarks.contacts                     # about a minute
    python -m benchmarks.contacts --sites 200 --rounds 1
    python -m benchmarks.contacts --data /path/to/orbits
"""

import argparse
import csv
import datetime as dt
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.orbits.elements import read_tle
from sim.orbits.orbit import Satellite
from sim.orbits.walker import walker
from sim.population import Cluster
from sim.windows.finder import Engine, WindowTable, find_window_blocks, find_window_table, find_windows

START = dt.datetime(2021, 1, 31, tzinfo=dt.UTC)
DAY_S = 86_400.0
UT1_UTC_S = -0.1667  # of the truth file, see its README
SAMPLE_SATELLITES, SAMPLE_SITES = 10, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print a table, and end with one line of JSON."""
    options = _options(arguments)
    if not options.data.is_dir():
        print(f"no orbit data at {options.data}; name the folder with --data", file=sys.stderr)
        return 2
    if importlib.util.find_spec("skyfield") is None:
        print("the comparison needs skyfield: pip install skyfield", file=sys.stderr)
        return 2
    result = measure(options.data, num_sites=options.sites, rounds=options.rounds, shell=options.shell)
    for name, value in result.items():
        print(f"{name:28} {value:,.6g}" if isinstance(value, float) else f"{name:28} {value}")
    print(json.dumps(result))
    return 0


def measure(data: Path, *, num_sites: int, rounds: int, shell: bool) -> dict[str, float | int]:
    """Return every number of the comparison.

    Parameters
    ----------
    data : Path
        Folder with the element sets and the truth file.
    num_sites : int
        Sites of the job, evenly spread over the globe.
    rounds : int
        Turns of skyfield and us; the medians count.
    shell : bool
        Also search a whole Starlink shell, 1,584 satellites.
    """
    result: dict[str, float | int] = {**accuracy(data)}
    satellites, sites = job(data, num_sites)
    rss_before_mb = peak_rss_mb()
    engines: list[Engine] = ["numpy"]
    if importlib.util.find_spec("numba") is not None:
        engines.append("numba")
    ours: dict[str, list[float]] = {engine: [] for engine in engines}
    theirs: list[float] = []
    tables: dict[str, WindowTable] = {}
    for _ in range(rounds):
        theirs.append(skyfield_rate(satellites, sites))
        for engine in engines:
            if engine == "numba" and engine not in tables:  # compile, after our memory was measured
                find_window_table(satellites[:2], sites[:2], start=START, span_s=DAY_S, engine=engine)
            begin = time.process_time()
            tables[engine] = find_window_table(
                satellites, sites, start=START, span_s=DAY_S, ut1_utc_s=UT1_UTC_S, engine=engine
            )
            ours[engine].append(len(satellites) * len(sites) / (time.process_time() - begin))
            result.setdefault("peak_rss_mb", peak_rss_mb())
    result |= {
        "pair_days": len(satellites) * len(sites),
        "windows": len(tables["numpy"].rise_s),
        "pair_days_per_s": float(np.median(ours["numpy"])),
        "skyfield_pair_days_per_s": float(np.median(theirs)),
        "ratio": float(np.median(np.divide(ours["numpy"], theirs))),
        "rss_before_mb": rss_before_mb,
    }
    if "numba" in engines:
        result["numba_pair_days_per_s"] = float(np.median(ours["numba"]))
        result["numba_ratio"] = float(np.median(np.divide(ours["numba"], theirs)))
        result["numba_max_difference_s"] = difference_s(tables["numpy"], tables["numba"])
    if shell:
        result |= whole_shell(sites)
    return result


def accuracy(data: Path) -> dict[str, float | int]:
    """Compare with the truth file: windows missed and invented, and the errors of their ends."""
    with next(data.glob("truth_windows_20x*.csv")).open() as stream:
        rows = list(csv.DictReader(stream))
    satellites = read_tle(data / "truth_20sats.tle")
    errors_s: list[float] = []
    missed = invented = 0
    for mask_deg in sorted({float(row["mask_deg"]) for row in rows}):
        wanted = [row for row in rows if float(row["mask_deg"]) == mask_deg]
        sites = {row["site"]: _site(row, mask_deg) for row in wanted}
        windows = find_windows(
            satellites, list(sites.values()), start=START, span_s=DAY_S, ut1_utc_s=UT1_UTC_S
        )
        free = set(windows)
        for row in wanted:
            match = [w for w in free if _is_same(w.satellite, w.site, w.rise_s, w.set_s, row)]
            if not match:
                missed += 1
                continue
            free.discard(match[0])
            errors_s.append(abs(match[0].rise_s - float(row["rise_s"])))
            errors_s.append(abs(match[0].set_s - float(row["set_s"])))
        invented += len(free)
    return {
        "truth_windows": len(rows),
        "missed": missed,
        "invented": invented,
        "mean_error_s": float(np.mean(errors_s)),
        "max_error_s": float(np.max(errors_s)),
    }


def job(data: Path, num_sites: int) -> tuple[list[Satellite], list[Cluster]]:
    """Return 100 satellites in low orbit, and sites on a Fibonacci lattice over the globe."""
    folder = data / "celestrak_2021-01-30"
    satellites = [
        satellite
        for name, count in (("starlink", 60), ("planet", 20), ("oneweb", 20))
        for satellite in read_tle(folder / f"{name}.txt")[:count]
    ]
    golden_deg = 180.0 * (3.0 - 5.0**0.5)
    sites = [
        Cluster(
            name=f"site-{number}",
            latitude_deg=float(np.degrees(np.arcsin((2.0 * number + 1.0) / num_sites - 1.0))),
            longitude_deg=(number * golden_deg) % 360.0,
            elevation_mask_deg=10.0,
        )
        for number in range(num_sites)
    ]
    return satellites, sites


def skyfield_rate(satellites: Sequence[Satellite], sites: Sequence[Cluster]) -> float:
    """Return the pair-days a second of ``find_events`` on a sample spread over the same job."""
    from skyfield.api import EarthSatellite, load, wgs84

    timescale = load.timescale(builtin=True)
    begin, end = timescale.utc(2021, 1, 31), timescale.utc(2021, 2, 1)
    some = satellites[:: max(1, len(satellites) // SAMPLE_SATELLITES)]
    places = sites[:: max(1, len(sites) // SAMPLE_SITES)]
    orbits = [EarthSatellite.from_satrec(satellite.record, timescale) for satellite in some]
    points = [wgs84.latlon(site.latitude_deg, site.longitude_deg, site.altitude_m) for site in places]
    started = time.process_time()
    for orbit in orbits:
        for point in points:
            orbit.find_events(point, begin, end, altitude_degrees=10.0)
    return len(orbits) * len(points) / (time.process_time() - started)


def difference_s(one: WindowTable, other: WindowTable) -> float:
    """Return the largest difference of rises and sets of two tables, infinite if their windows differ."""
    if not (np.array_equal(one.site, other.site) and np.array_equal(one.satellite, other.satellite)):
        return float("inf")
    return float(max(np.abs(one.rise_s - other.rise_s).max(), np.abs(one.set_s - other.set_s).max()))


def whole_shell(sites: Sequence[Cluster]) -> dict[str, float | int]:
    """Search 1,584 satellites over all sites, block by block, and return time and memory."""
    satellites = walker(
        total=1584, planes=72, phasing=39, inclination_deg=53.0, altitude_km=550.0, epoch=START
    )
    begin, windows = time.process_time(), 0
    for block in find_window_blocks(satellites, sites, start=START, span_s=DAY_S):
        windows += len(block.rise_s)
    return {
        "shell_windows": windows,
        "shell_s": time.process_time() - begin,
        "shell_peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> float:
    """Return the most memory this process has ever held, in MB (Linux counts kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def _site(row: dict[str, str], mask_deg: float) -> Cluster:
    """Return the site of one line of the truth file."""
    return Cluster(
        name="-".join(row["site"].split()),
        latitude_deg=float(row["lat_deg"]),
        longitude_deg=float(row["lon_deg"]),
        altitude_m=float(row["alt_m"]),
        elevation_mask_deg=mask_deg,
    )


def _is_same(satellite: str, site: str, rise_s: float, set_s: float, row: dict[str, str]) -> bool:
    """Tell whether a window is that of the line: the same pair, and each within the other's middle."""
    if satellite != row["satellite"] or site != "-".join(row["site"].split()):
        return False
    return rise_s < float(row["set_s"]) and float(row["rise_s"]) < set_s


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contacts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("EMS_FL_SHARED_DATA", beside)) / "orbits"
    parser.add_argument("--data", type=Path, default=default, help="folder of element sets and truth file")
    parser.add_argument("--sites", type=int, default=1000, help="sites of the job (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of skyfield and us (default 3)")
    parser.add_argument("--shell", action="store_true", help="also search a whole Starlink shell (a minute)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
