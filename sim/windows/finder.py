"""Contact windows: when which satellite is above the elevation mask of which site."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.faults import raise_faults
from sim.orbits.decay import Reach, reaches
from sim.orbits.orbit import Ephemeris, FloatArray, Satellite, propagate
from sim.population import Cluster
from sim.windows.geodesy import site_vectors
from sim.windows.passes import Grid, Passes, join, no_passes, search

# Nodes (satellites x times) propagated together: about 100 bytes each.
_MAX_NODES = 1 << 18
MAX_SPAN_S = 366 * 86_400.0
MAX_STEP_S = 180.0
_MAX_TIMES = 4_000_000

Engine = Literal["numpy", "numba"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactWindow:
    """One pass of one satellite over one site.

    Parameters
    ----------
    satellite, site : str
        Their names.
    rise_s, set_s : float
        Seconds after the start; the elevation is at or above the mask in between.
    max_elevation_deg : float
        The highest elevation within the window.
    rise_clipped, set_clipped : bool
        The pass began before the span, or goes on after it.
    """

    satellite: str
    site: str
    rise_s: float
    set_s: float
    max_elevation_deg: float
    rise_clipped: bool
    set_clipped: bool


class LeftOut(NamedTuple):
    """A satellite that is not in orbit over the whole span, or whose elements fail: when, and why."""

    satellite: str
    reason: str
    part: str = ""  # such as "from 5400 s on"; empty where it is the whole span

    def __str__(self) -> str:
        """Return a sentence for who asked."""
        return (
            f"satellite {' '.join(filter(None, (self.satellite, 'is left out', self.part)))}: {self.reason}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTable:
    """All windows as columns, in the order of site, satellite, time; one row a window.

    Parameters
    ----------
    satellites, sites : tuple[str, ...]
        What the indices refer to.
    satellite, site : int32 [N]
    rise_s, set_s : float64 [N]
    rise_clipped, set_clipped : bool [N]
    max_elevation_deg : float64 [N] or None
        None where nobody asked for it.
    left_out : tuple[LeftOut, ...]
        Satellites without windows, or without them in a part of the span, because they decayed or their
        elements failed.
    """

    satellites: tuple[str, ...]
    sites: tuple[str, ...]
    satellite: NDArray[np.int32]
    site: NDArray[np.int32]
    rise_s: FloatArray
    set_s: FloatArray
    rise_clipped: NDArray[np.bool_]
    set_clipped: NDArray[np.bool_]
    max_elevation_deg: FloatArray | None
    left_out: tuple[LeftOut, ...]


def find_windows(
    satellites: Sequence[Satellite],
    sites: Sequence[Cluster],
    *,
    start: dt.datetime,
    span_s: float,
    step_s: float = 60.0,
    ut1_utc_s: float = 0.0,
    on_left_out: Callable[[LeftOut], None] | None = None,
) -> tuple[ContactWindow, ...]:
    """Return every contact window, by site, then satellite, then time; as `find_window_table`.

    Parameters
    ----------
    on_left_out : callable, optional
        Told of every satellite left out.
    """
    table = find_window_table(
        satellites, sites, start=start, span_s=span_s, step_s=step_s, ut1_utc_s=ut1_utc_s, with_peaks=True
    )
    if on_left_out is not None:
        for left_out in table.left_out:
            on_left_out(left_out)
    assert table.max_elevation_deg is not None
    return tuple(
        ContactWindow(
            satellite=table.satellites[satellite],
            site=table.sites[site],
            rise_s=rise_s,
            set_s=set_s,
            max_elevation_deg=peak_deg,
            rise_clipped=rise_clipped,
            set_clipped=set_clipped,
        )
        for satellite, site, rise_s, set_s, peak_deg, rise_clipped, set_clipped in zip(
            table.satellite.tolist(),
            table.site.tolist(),
            table.rise_s.tolist(),
            table.set_s.tolist(),
            table.max_elevation_deg.tolist(),
            table.rise_clipped.tolist(),
            table.set_clipped.tolist(),
            strict=True,
        )
    )


def find_window_table(
    satellites: Sequence[Satellite],
    sites: Sequence[Cluster],
    *,
    start: dt.datetime,
    span_s: float,
    step_s: float = 60.0,
    ut1_utc_s: float = 0.0,
    with_peaks: bool = False,
    engine: Engine = "numpy",
) -> WindowTable:
    """Return every contact window of every satellite over every site.

    Geometric elevation above the plane normal to the WGS84 ellipsoid: no refraction (it would lengthen
    a pass at a mask of 10 degrees by about a second), no light time (20 ms at most).

    Parameters
    ----------
    satellites : Sequence[Satellite]
        Names all different. One that decays, or that SGP4 cannot propagate, is left out from that moment
        (see `sim.orbits.decay`) and listed in the result; a pass it was in is cut there.
    sites : Sequence[Cluster]
        Names all different, each with its own mask.
    start : datetime
        With a time zone; all times are seconds after it.
    span_s : float
        In (0, 366 days].
    step_s : float
        Distance of grid nodes in (0, 180]. 60 finds every window and places its ends within 5 ms
        (mean 0.08 ms) of a 1 s sampling refined to microseconds; 120 within 30 ms.
    ut1_utc_s : float
        UT1 - UTC in (-1, 1), see `sim.orbits.orbit.propagate`.
    with_peaks : bool
        Also find the highest elevation of every window (a quarter slower).
    engine : {"numpy", "numba"}
        The same windows; ``numba`` is faster, must be installed, and compiles for some seconds once.

    Returns
    -------
    WindowTable
        Memory grows with the number of windows (26 bytes each, twice that while they are sorted), not
        with satellites x sites x time. `find_window_blocks` keeps even that bounded.

    Raises
    ------
    ValueError
        Naming every impossible argument at once.
    """
    blocks = list(
        find_window_blocks(
            satellites,
            sites,
            start=start,
            span_s=span_s,
            step_s=step_s,
            ut1_utc_s=ut1_utc_s,
            with_peaks=with_peaks,
            engine=engine,
        )
    )
    if len(blocks) == 1:
        return blocks[0]
    site, satellite, rise_s = (_column(blocks, name) for name in ("site", "satellite", "rise_s"))
    order = np.lexsort((rise_s, satellite, site))
    return WindowTable(
        satellites=blocks[0].satellites,
        sites=blocks[0].sites,
        site=site[order],
        satellite=satellite[order],
        rise_s=rise_s[order],
        set_s=_column(blocks, "set_s")[order],
        rise_clipped=_column(blocks, "rise_clipped")[order],
        set_clipped=_column(blocks, "set_clipped")[order],
        max_elevation_deg=_column(blocks, "max_elevation_deg")[order] if with_peaks else None,
        left_out=tuple(left_out for block in blocks for left_out in block.left_out),
    )


def find_window_blocks(
    satellites: Sequence[Satellite],
    sites: Sequence[Cluster],
    *,
    start: dt.datetime,
    span_s: float,
    step_s: float = 60.0,
    ut1_utc_s: float = 0.0,
    with_peaks: bool = False,
    engine: Engine = "numpy",
) -> Iterator[WindowTable]:
    """Yield the windows of a few satellites after the other: bounded memory for any size.

    Parameters and errors as `find_window_table`. Every table names all satellites and sites; its rows
    are in the order of site, satellite, time.
    """
    raise_faults(_faults(satellites, sites, span_s, step_s))
    search_grid = _engine(engine)
    vectors = site_vectors(sites)
    time_s = np.linspace(0.0, span_s, int(np.ceil(span_s / step_s)) + 1)
    names = tuple(satellite.name for satellite in satellites)
    site_names = tuple(site.name for site in sites)
    per_block = max(1, _MAX_NODES // len(time_s))
    for first in range(0, len(satellites), per_block):
        block = satellites[first : first + per_block]
        states = propagate(block, start, time_s, ut1_utc_s=ut1_utc_s)
        own = reaches(block, states, start, time_s)
        parts = [no_passes(with_peaks=with_peaks)]
        for first_time, stop_time in sorted({(reach.first, reach.stop) for reach in own}):
            rows = np.flatnonzero([reach[:2] == (first_time, stop_time) for reach in own])
            if stop_time - first_time >= 2:
                grid = _grid(states, rows, time_s, slice(first_time, stop_time))
                part = search_grid(grid, vectors, with_peaks=with_peaks)
                parts.append(_placed(part, rows, float(time_s[first_time])))
        passes = join(parts)
        left_out = tuple(_left_out(s.name, r, time_s) for s, r in zip(block, own, strict=True) if r.reason)
        order = np.lexsort((passes.rise_s, passes.satellite, passes.site))
        peaks = passes.max_elevation_deg
        yield WindowTable(
            satellites=names,
            sites=site_names,
            site=passes.site[order].astype(np.int32),
            satellite=(first + passes.satellite[order]).astype(np.int32),
            rise_s=passes.rise_s[order],
            set_s=passes.set_s[order],
            rise_clipped=passes.rise_clipped[order],
            set_clipped=passes.set_clipped[order],
            max_elevation_deg=None if peaks is None else peaks[order],
            left_out=left_out,
        )


def _column(blocks: Sequence[WindowTable], name: str) -> NDArray[Any]:
    """Return one column of all blocks."""
    return np.concatenate([getattr(block, name) for block in blocks])


def _engine(name: Engine) -> Callable[..., Passes]:
    """Return the search of that engine."""
    if name == "numpy":
        return search
    if name != "numba":
        raise ValueError(f"engine must be 'numpy' or 'numba', got {name!r}")
    try:
        from sim.windows.passes_numba import search_compiled
    except ImportError as error:
        raise ValueError("engine 'numba' needs the package numba: pip install numba") from error
    return search_compiled


def _grid(states: Ephemeris, rows: NDArray[np.int64], time_s: FloatArray, part: slice) -> Grid:
    """Lay the states of some satellites in a part of the time out flat, one row a coordinate."""
    position, velocity = (
        np.ascontiguousarray(field[rows, part].reshape(-1, 3).T)
        for field in (states.position_km, states.velocity_km_per_s)
    )
    return Grid(
        step_s=float(time_s[-1] / (len(time_s) - 1)),
        num_times=part.stop - part.start,
        position_km=position,
        velocity_km_per_s=velocity,
    )


def _placed(passes: Passes, rows: NDArray[np.int64], begin_s: float) -> Passes:
    """Return passes of a part of the satellites and of the time as passes of all of them."""
    return passes._replace(
        satellite=rows[passes.satellite], rise_s=passes.rise_s + begin_s, set_s=passes.set_s + begin_s
    )


def _left_out(name: str, reach: Reach, time_s: FloatArray) -> LeftOut:
    """Say in which part of the span a satellite is left out."""
    if reach.stop - reach.first < 2:
        return LeftOut(name, reach.reason)
    parts = [f"before {time_s[reach.first]:.0f} s"] if reach.first else []
    parts += [f"from {time_s[reach.stop]:.0f} s on"] if reach.stop < len(time_s) else []
    return LeftOut(name, reach.reason, " and ".join(parts))


def _faults(
    satellites: Sequence[Satellite], sites: Sequence[Cluster], span_s: float, step_s: float
) -> list[str]:
    """Return what is wrong with a search."""
    faults = []
    for kind, names in (("satellite", [s.name for s in satellites]), ("site", [s.name for s in sites])):
        if not names:
            faults.append(f"a search for windows needs at least one {kind}, got none")
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            faults.append(f"{kind} names must differ, got more than one of: {', '.join(repeated[:10])}")
    if not 0.0 < span_s <= MAX_SPAN_S:
        faults.append(f"span_s must be in (0, {MAX_SPAN_S:.0f}] (366 days), got {span_s}")
    if not 0.0 < step_s <= MAX_STEP_S:
        faults.append(f"step_s must be in (0, {MAX_STEP_S:.0f}], got {step_s}; short passes would be missed")
    elif span_s / step_s > _MAX_TIMES:
        faults.append(
            f"span_s / step_s must be at most {_MAX_TIMES}, got {span_s} / {step_s}; 60 s is accurate to 5 ms"
        )
    return faults
