"""The command ``python -m sim.contacts``: who is seen when, as a table, as files and as a picture."""

import argparse
import csv
import datetime as dt
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.orbits.choice import only_named
from sim.orbits.orbit import Satellite
from sim.plans.from_orbits import (
    SkySettings,
    find_cluster_windows,
    gateway_wait_s,
    load_satellites,
    notice_age,
    start_of,
)
from sim.plans.from_windows import plan_from_windows
from sim.plans.link import PRESETS, Link, fixed_link, link_preset
from sim.plans.plan import ContactPlan
from sim.population import Cluster
from sim.sites import DEFAULT_SITES, default_clusters, parse_site, read_sites
from sim.windows.finder import WindowTable

EXAMPLES = """examples:
  the demo's sky over its eight places, with a picture
      PROG --picture sky.png
  every pass of the space station over two places in the next two days
      PROG --elements stations.txt --only 'ISS*' --hours 48 --mask 10 \\
          --site Leh,34.16,77.58,3500 --site Tristan,-37.07,-12.31 --list
  a day of a Walker constellation over the sites of a file, as a contact plan for ION
      PROG --walker 24/3/1 --pattern delta --inclination 56 --altitude 600 \\
          --sites sites.csv --link s-band --out plan.ion
  the passes themselves, with UTC times, for a spreadsheet
      PROG --elements starlink.txt --only 'STARLINK-10*' --windows passes.csv
"""


_PASS_COLUMNS = (
    "satellite",
    "site",
    "rise_utc",
    "set_utc",
    "rise_s",
    "set_s",
    "duration_s",
    "max_elevation_deg",
    "rise_clipped",
    "set_clipped",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the command computed, before anything is printed or written."""

    start: dt.datetime
    span_s: float
    satellites: tuple[Satellite, ...]
    clusters: tuple[Cluster, ...]
    table: WindowTable
    plan: ContactPlan


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sim.contacts") -> int:
    """Run the command; return 0, or 2 for input that cannot be used."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or file of few letters (LANG=C, PYTHONIOENCODING=ascii) shows others by their number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser(prog).parse_args(arguments)
    try:
        found = _find(options)
        _write(found, options)
    except (ValueError, OSError) as error:
        print(f"sim.contacts: {error}", file=sys.stderr)
        return 2
    try:
        print("\n".join(_report(found, full=options.list)))
    except BrokenPipeError:  # piped into head
        sys.stderr.close()
    return 0


def _find(options: argparse.Namespace) -> Found:
    """Compute windows and plan from the options."""
    for path in filter(None, (options.out, options.windows, options.picture)):
        if not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    settings, clusters, link = _settings(options), _clusters(options), _link(options)
    satellites = load_satellites(settings, on_notice=_notice)
    if options.only:
        satellites = only_named(satellites, options.only)
    start = start_of(settings, satellites)
    notice_age(satellites, start, settings.span_s, _notice)
    table = find_cluster_windows(settings, satellites, clusters, start, with_peaks=True)
    for left_out in table.left_out:
        _notice(str(left_out))
    plan = plan_from_windows(
        table,
        satellites,
        clusters,
        link,
        start=start,
        span_s=settings.span_s,
        ut1_utc_s=settings.ut1_utc_s,
        wait_s=gateway_wait_s(settings, satellites, start, table),
    )
    return Found(
        start=start,
        span_s=settings.span_s,
        satellites=satellites,
        clusters=clusters,
        table=table,
        plan=plan,
    )


def _settings(options: argparse.Namespace) -> SkySettings:
    """Return the sky of the options."""
    parts = options.walker.split("/")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--walker must be T/P/F such as 24/3/1, got {options.walker!r}")
    total, planes, phasing = (int(part) for part in parts)
    return SkySettings(
        elements=options.elements or "walker",
        walker_pattern=options.pattern,
        walker_total=total,
        walker_planes=planes,
        walker_phasing=phasing,
        inclination_deg=options.inclination,
        altitude_km=options.altitude,
        start=_instant(options.start),
        span_s=options.hours * 3600.0,
        step_s=options.step,
        ut1_utc_s=options.ut1_utc,
        serving=options.serving,
        area=options.area,
        gateways=tuple(_sites("--gateway", options.gateway, options.mask)),
    )


def _instant(text: str | None) -> dt.datetime | None:
    """Read an instant; without a zone it is UTC, as the option's help says."""
    if text is None:
        return None
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--start must be a time such as 2026-01-01T06:00, got {text!r}") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _clusters(options: argparse.Namespace) -> tuple[Cluster, ...]:
    """Return the sites of the options, or the default ones."""
    sites = read_sites(options.sites, elevation_mask_deg=options.mask) if options.sites else ()
    sites += tuple(_sites("--site", options.site, options.mask))
    return sites or default_clusters(len(DEFAULT_SITES), elevation_mask_deg=options.mask)


def _sites(option: str, texts: Sequence[str], mask_deg: float) -> Iterator[Cluster]:
    """Yield the sites of an option."""
    for text in texts:
        yield parse_site(text, elevation_mask_deg=mask_deg, called=option)


def _link(options: argparse.Namespace) -> Link:
    """Return the preset, or the fixed rates."""
    if options.rates is None:
        return link_preset(options.link)
    down_bps, up_bps = options.rates
    return fixed_link(down_bps, up_bps)


def _write(found: Found, options: argparse.Namespace) -> None:
    """Write the files that were asked for, each whole or not at all."""
    if options.out:
        try:
            from sim.plan_files.files import write_plan
        except ImportError as error:
            raise ValueError("--out needs the package pyarrow: pip install pyarrow") from error

        write_plan(found.plan, options.out)
    if options.windows:
        _write_windows(found, options.windows)
    if options.picture:
        try:
            from sim.contacts.picture import draw
        except ImportError as error:
            raise ValueError("--picture needs the package matplotlib: pip install matplotlib") from error
        draw(found.plan, found.satellites, found.clusters, start=found.start, path=options.picture)


def _write_windows(found: Found, path: Path) -> None:
    """Write one line a pass."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(_PASS_COLUMNS)
            for row in _passes(found):
                writer.writerow(row)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _passes(found: Found) -> Iterator[tuple[object, ...]]:
    """Yield one row a pass, by site and time."""
    table = found.table
    peaks_deg = table.max_elevation_deg  # an area has none
    order = sorted(range(len(table.rise_s)), key=lambda row: (table.site[row], table.rise_s[row]))
    for row in order:
        rise_s, set_s = float(table.rise_s[row]), float(table.set_s[row])
        yield (
            table.satellites[table.satellite[row]],
            table.sites[table.site[row]],
            _utc(found.start, rise_s),
            _utc(found.start, set_s),
            f"{rise_s:.4f}",
            f"{set_s:.4f}",
            f"{set_s - rise_s:.4f}",
            "" if peaks_deg is None else f"{peaks_deg[row]:.4f}",
            bool(table.rise_clipped[row]),
            bool(table.set_clipped[row]),
        )


def _utc(start: dt.datetime, time_s: float) -> str:
    """Return the nearest millisecond."""
    instant = (start + dt.timedelta(milliseconds=round(1e3 * time_s))).astimezone(dt.UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _report(found: Found, *, full: bool) -> Iterator[str]:
    """Yield the lines of the table: one a site, before it one a pass if asked for."""
    width = max(14, *(len(cluster.name) for cluster in found.clusters))
    if full:
        yield f"{'site':{width}} {'satellite':24} {'rise':24} {'set':24} {'seconds':>10} {'max deg':>8}"
        for satellite, site, rise, set_, _, _, duration, peak, *_ in _passes(found):
            yield f"{site!s:{width}} {satellite!s:24} {rise!s:24} {set_!s:24} {duration!s:>10} {peak!s:>8}"
        yield ""
    yield (
        f"{len(found.satellites)} satellites, {len(found.clusters)} sites, {found.span_s / 3600.0:g} h from "
        f"{_utc(found.start, 0.0)}: {len(found.table.rise_s)} passes"
    )
    yield (
        f"{'site':{width}} {'contacts':>8} {'passes':>7} {'in contact':>10} {'mean s':>8} "
        f"{'longest gap':>12} {'delay s':>9} {'MB down':>12} {'MB up':>12}"
    )
    for index, cluster in enumerate(found.clusters):
        contacts = found.plan.contacts[cluster.name]
        served_s = sum(contact.set_s - contact.rise_s for contact in contacts)
        edges_s = [0.0, *(edge for c in contacts for edge in (c.rise_s, c.set_s)), found.span_s]
        gap_s = max(later - earlier for earlier, later in zip(edges_s[::2], edges_s[1::2], strict=True))
        delay_s = sum(contact.delay_s for contact in contacts) / len(contacts)
        passes = int((found.table.site == index).sum())
        down, up = (1e-6 * sum(c.capacity_bytes(way) for c in contacts) for way in ("down", "up"))
        yield (
            f"{cluster.name:{width}} {len(contacts):8} {passes:7} {served_s / found.span_s:10.2%} "
            f"{served_s / len(contacts):8.0f} {gap_s / 3600.0:10.2f} h "
            f"{delay_s:9.3f} {down:12,.2f} {up:12,.2f}"
        )


def _notice(text: str) -> None:
    """Say something that does not stop the command."""
    print(f"note: {text}", file=sys.stderr)


def _parser(prog: str) -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="When satellites see sites on the ground, and what the link carries then.",
        epilog=EXAMPLES.replace("PROG", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sky = parser.add_argument_group("satellites")
    sky.add_argument(
        "--elements", metavar="FILE", help="TLE, or OMM as JSON, CSV, XML, KVN; else a Walker constellation"
    )
    sky.add_argument(
        "--only",
        metavar="PATTERN",
        help="of these, the names that fit, such as 'ISS*' (only * and ? stand for other letters)",
    )
    sky.add_argument("--walker", default="3/3/0", metavar="T/P/F", help="satellites/planes/phasing (3/3/0)")
    sky.add_argument(
        "--pattern", choices=("star", "delta"), default="star", help="of the Walker planes (star)"
    )
    sky.add_argument("--inclination", type=float, default=90.0, metavar="DEG", help="of the planes (90)")
    sky.add_argument("--altitude", type=float, default=550.0, metavar="KM", help="over the equator (550)")
    sky.add_argument("--serving", default="any", metavar="NAME", help="the one satellite that serves, or any")
    sky.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="NAME,LAT,LON[,M]",
        help="satellites are not linked: they forward here, may be repeated",
    )
    ground = parser.add_argument_group("sites (default: eight remote places)")
    ground.add_argument("--sites", metavar="CSV", help="columns name, latitude_deg, longitude_deg, ...")
    ground.add_argument(
        "--site", action="append", default=[], metavar="NAME,LAT,LON[,M]", help="may be repeated"
    )
    ground.add_argument("--mask", type=float, default=20.0, metavar="DEG", help="elevation mask (20)")
    ground.add_argument(
        "--area",
        choices=("centre", "all"),
        default="centre",
        help="all: in contact while the whole radius_km of the CSV is (centre)",
    )
    span = parser.add_argument_group("time")
    span.add_argument("--start", metavar="UTC", help="such as 2026-01-01T06:00 (the newest elements' epoch)")
    span.add_argument("--hours", type=float, default=24.0, help="length of the plan (24)")
    span.add_argument("--step", type=float, default=60.0, metavar="S", help="search grid, at most 180 s (60)")
    span.add_argument("--ut1-utc", type=float, default=0.0, metavar="S", help="UT1 - UTC, from IERS (0)")
    link = parser.add_argument_group("link")
    link.add_argument("--link", choices=tuple(PRESETS), default="starlink-like", help="(starlink-like)")
    link.add_argument(
        "--rates", nargs=2, type=float, metavar=("DOWN", "UP"), help="fixed rates in bit/s instead"
    )
    out = parser.add_argument_group("output, beside the table")
    out.add_argument("--list", action="store_true", help="print every pass too")
    out.add_argument("--windows", type=Path, metavar="CSV", help="write every pass")
    out.add_argument(
        "--out", type=Path, metavar="FILE", help="write the contact plan: .csv, .parquet or .ion"
    )
    out.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw timeline and ground tracks (matplotlib)"
    )
    return parser
