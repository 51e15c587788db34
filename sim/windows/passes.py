"""The arithmetic of the window finder: which passes a grid of states holds, to a microsecond.

With ``rho`` the vector from a site to a satellite and ``n`` the normal of the ellipsoid there, a
satellite is above the mask where::

    g = rho . n - sin(mask) |rho| >= 0

1. Screen: single-precision inner products of unit vectors find every grid node near a pass. It
   may err on the side of too many nodes, never of too few.
2. At those nodes g and its derivative say what each grid interval holds: a rise, a set, or, where both
   ends lie on one side, a maximum or a dip that may cross the mask twice (a pass shorter than the grid
   step; a satellite with several elevation maxima).
3. Between nodes the position is the cubic Hermite interpolant (error ``step^4 / 384 |r''''|``, 0.3 m at
   60 s in low orbit), and g = 0 is solved by a safeguarded Newton iteration.

Legend of shape suffixes: B sites of a block, C candidate nodes, M intervals, N nodes (satellites x times).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.windows.geodesy import Sites
from sim.windows.hermite import Intervals, climb, elevation_deg, hermite_intervals, margin, margin_slope, root

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Lower than any point of the WGS84 ellipsoid or a site on it: a smaller Earth is seen from further away.
_SMALLEST_EARTH_KM = 6356.0
# Between the geodetic and the geocentric vertical there are at most 0.193 degrees.
_SCREEN_MARGIN_DEG = 0.25
# Sites x nodes screened together: the candidates among them still fit a processor's cache.
_MAX_SCREENED = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """States of satellites on an even time grid, flattened so that time runs fastest.

    Parameters
    ----------
    step_s : float
        Between nodes.
    num_times : int
        Nodes a satellite; node ``i`` belongs to satellite ``i // num_times``.
    position_km, velocity_km_per_s : float64 [3, N]
        Earth-fixed, one row a coordinate.
    """

    step_s: float
    num_times: int
    position_km: FloatArray
    velocity_km_per_s: FloatArray


class Passes(NamedTuple):
    """Found windows in (site, satellite, time) order; clipped ones begin or end with the grid."""

    site: IntArray
    satellite: IntArray
    rise_s: FloatArray
    set_s: FloatArray
    rise_clipped: BoolArray
    set_clipped: BoolArray
    max_elevation_deg: FloatArray | None = None


class _Nodes(NamedTuple):
    """Candidate nodes, in (site, satellite, time) order, with g, its slope and the elevation's."""

    site: IntArray
    node: IntArray
    g: FloatArray
    slope: FloatArray
    climb: FloatArray  # has the sign of the derivative of the elevation


def search(grid: Grid, sites: Sites, *, with_peaks: bool) -> Passes:
    """Return every window of every satellite of the grid over every site.

    Parameters
    ----------
    grid : Grid
        States of the satellites, all finite.
    sites : Sites
        Where from, each with its own mask.
    with_peaks : bool
        Also find the highest elevation of every window.
    """
    radius_km = np.sqrt(np.einsum("cn,cn->n", grid.position_km, grid.position_km))
    unit_3N = (grid.position_km / radius_km).astype(np.float32)
    per_block = max(1, _MAX_SCREENED // len(radius_km))
    found = []
    for mask_deg in np.unique(sites.mask_deg):
        cosine_N = _screen_cosines(grid, float(mask_deg))
        same_mask = np.flatnonzero(sites.mask_deg == mask_deg)
        for first in range(0, len(same_mask), per_block):
            part = same_mask[first : first + per_block]
            block = Sites(*(field[part] for field in sites))
            passes = _find(grid, block, unit_3N, cosine_N, with_peaks=with_peaks)
            found.append(passes._replace(site=part[passes.site]))
    return join(found)


def no_passes(*, with_peaks: bool) -> Passes:
    """Return no window at all."""
    index, edge_s, clipped = np.empty(0, np.int64), np.empty(0), np.empty(0, np.bool_)
    return Passes(index, index, edge_s, edge_s, clipped, clipped, edge_s if with_peaks else None)


def join(found: Sequence[Passes]) -> Passes:
    """Put the windows of several searches together, in their order."""
    peaks = [passes.max_elevation_deg for passes in found if passes.max_elevation_deg is not None]
    return Passes(
        site=np.concatenate([passes.site for passes in found]),
        satellite=np.concatenate([passes.satellite for passes in found]),
        rise_s=np.concatenate([passes.rise_s for passes in found]),
        set_s=np.concatenate([passes.set_s for passes in found]),
        rise_clipped=np.concatenate([passes.rise_clipped for passes in found]),
        set_clipped=np.concatenate([passes.set_clipped for passes in found]),
        max_elevation_deg=np.concatenate(peaks) if peaks else None,
    )


def reach_and_turn(grid: Grid, mask_deg: float) -> tuple[FloatArray, FloatArray]:
    """Return bounds that hold around each node, both in radians, [satellite, time].

    The furthest central angle at which a satellite can be above the mask, and how far it moves as seen
    from the Earth's centre in half a step; radius and angular speed are the largest of the neighbouring
    nodes.
    """
    shape = (-1, grid.num_times)
    radius_km = np.sqrt(np.einsum("cn,cn->n", grid.position_km, grid.position_km)).reshape(shape)
    speed = np.sqrt(np.einsum("cn,cn->n", grid.velocity_km_per_s, grid.velocity_km_per_s))
    half_turn_rad = _widen(speed.reshape(shape) / radius_km) * (0.5 * grid.step_s)
    radius_km = _widen(radius_km)
    low_rad = np.radians(mask_deg - _SCREEN_MARGIN_DEG)
    reach_rad = np.arccos(np.minimum(1.0, _SMALLEST_EARTH_KM * np.cos(low_rad) / radius_km)) - low_rad
    return reach_rad, half_turn_rad


def _screen_cosines(grid: Grid, mask_deg: float) -> NDArray[np.float32]:
    """Return, for each node, the cosine of the central angle beyond which no pass can be near.

    A satellite above the mask at any instant is within half a step of a node, where its central
    angle is larger by at most half a step of its motion.
    """
    reach_rad, half_turn_rad = reach_and_turn(grid, mask_deg)
    cosines: NDArray[np.float32] = (
        np.cos(np.minimum(np.pi, reach_rad + half_turn_rad)).ravel().astype(np.float32)
    )
    return cosines


def _find(
    grid: Grid,
    sites: Sites,
    unit_3N: NDArray[np.float32],
    cosine_N: NDArray[np.float32],
    *,
    with_peaks: bool,
) -> Passes:
    """Return every window of a block of sites that share one mask."""
    nodes = _candidates(grid, sites, unit_3N, cosine_N)
    follows_C = (nodes.node[1:] == nodes.node[:-1] + 1) & (nodes.site[1:] == nodes.site[:-1])
    follows_C &= nodes.node[1:] % grid.num_times != 0
    above_C = nodes.g >= 0.0
    before, after = above_C[:-1], above_C[1:]
    rising = follows_C & ~before & after
    setting = follows_C & before & ~after
    falls = (nodes.slope[:-1] > 0.0) & (nodes.slope[1:] < 0.0)
    lifts = (nodes.slope[:-1] < 0.0) & (nodes.slope[1:] > 0.0)
    hump = follows_C & ~before & ~after & falls
    dip = follows_C & before & after & lifts
    single = np.flatnonzero(rising | setting)
    double = np.flatnonzero(hump | dip)
    is_rise = rising[single]
    root_M = root(
        _intervals(grid, sites, nodes, single),
        margin,
        np.zeros(len(single)),
        np.ones(len(single)),
        np.where(is_rise, -1.0, 1.0),
        guess_M=_guess(grid, nodes, single),
    )
    first_M, second_M, crosses_M = _double_crossing(_intervals(grid, sites, nodes, double), hump[double])
    double = double[crosses_M]
    first_M, second_M = first_M[crosses_M], second_M[crosses_M]
    is_hump = hump[double]
    time_C = nodes.node % grid.num_times
    begins = np.flatnonzero(above_C & (time_C == 0))
    ends = np.flatnonzero(above_C & (time_C == grid.num_times - 1))
    rise_at = np.concatenate([begins, single[is_rise], double])
    rise_u = np.concatenate([np.zeros(len(begins)), root_M[is_rise], np.where(is_hump, first_M, second_M)])
    set_at = np.concatenate([single[~is_rise], double, ends])
    set_u = np.concatenate([root_M[~is_rise], np.where(is_hump, second_M, first_M), np.zeros(len(ends))])
    passes = _assemble(grid, nodes, (rise_at, rise_u), (set_at, set_u))
    if not with_peaks:
        return passes
    return passes._replace(max_elevation_deg=_highest_deg(grid, sites, nodes, follows_C, passes))


def _widen(values_ST: FloatArray) -> FloatArray:
    """Return the largest of each value and its two neighbours in time."""
    wide = values_ST.copy()
    np.maximum(wide[:, 1:], values_ST[:, :-1], out=wide[:, 1:])
    np.maximum(wide[:, :-1], values_ST[:, 1:], out=wide[:, :-1])
    return wide


def _candidates(
    grid: Grid, sites: Sites, unit_3N: NDArray[np.float32], cosine_N: NDArray[np.float32]
) -> _Nodes:
    """Screen the block, and compute g and its slope at the nodes that may be near a pass.

    Site by site: the few thousand nodes of one site stay in the processor's cache, and the vectors of
    the site are constants (three times faster than the whole block at once).
    """
    blocks = [_site_nodes(grid, sites, row, unit_3N, cosine_N) for row in range(len(sites.position_km))]
    return _Nodes(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _site_nodes(
    grid: Grid, sites: Sites, row: int, unit_3N: NDArray[np.float32], cosine_N: NDArray[np.float32]
) -> _Nodes:
    """Return the candidate nodes of one site."""
    position, normal = sites.position_km[row], sites.normal[row]
    direction = (position / np.linalg.norm(position)).astype(np.float32)
    # Not the matrix product: for it a threaded BLAS would wake, and spin, every other core.
    cosine = unit_3N[0] * direction[0]
    cosine += unit_3N[1] * direction[1]
    cosine += unit_3N[2] * direction[2]
    near = cosine >= cosine_N
    wide = near.copy()  # both ends of every interval that holds a near node
    wide[1:] |= near[:-1]
    wide[:-1] |= near[1:]
    node = np.flatnonzero(wide)
    rho = grid.position_km.take(node, axis=1)
    rho -= position[:, None]
    velocity = grid.velocity_km_per_s.take(node, axis=1)
    up = normal[0] * rho[0] + normal[1] * rho[1] + normal[2] * rho[2]
    up_rate = normal[0] * velocity[0] + normal[1] * velocity[1] + normal[2] * velocity[2]
    along = rho[0] * velocity[0] + rho[1] * velocity[1] + rho[2] * velocity[2]
    square = rho[0] * rho[0] + rho[1] * rho[1] + rho[2] * rho[2]
    distance = np.sqrt(square)
    sin_mask = math.sin(math.radians(sites.mask_deg[row]))
    return _Nodes(
        site=np.full(len(node), row),
        node=node,
        g=up - sin_mask * distance,
        slope=up_rate - sin_mask * along / distance,
        climb=up_rate * square - up * along,
    )


def _intervals(grid: Grid, sites: Sites, nodes: _Nodes, at: IntArray) -> Intervals:
    """Return the geometry between candidate ``at`` and the node after it."""
    site, node = nodes.site[at], nodes.node[at]
    return hermite_intervals(
        grid.step_s,
        (grid.position_km.take(node, axis=1), grid.position_km.take(node + 1, axis=1)),
        (grid.velocity_km_per_s.take(node, axis=1), grid.velocity_km_per_s.take(node + 1, axis=1)),
        sites.position_km.T.take(site, axis=1),
        sites.normal.T.take(site, axis=1),
        np.sin(np.radians(sites.mask_deg)).take(site),
    )


def _guess(grid: Grid, nodes: _Nodes, at: IntArray) -> FloatArray:
    """Return where the cubic Hermite interpolant of g itself crosses zero, nearly: two cheap Newton steps."""
    g0, g1 = nodes.g.take(at), nodes.g.take(at + 1)
    s0, s1 = grid.step_s * nodes.slope.take(at), grid.step_s * nodes.slope.take(at + 1)
    a2, a3 = 3.0 * (g1 - g0) - 2.0 * s0 - s1, 2.0 * (g0 - g1) + s0 + s1
    u = g0 / (g0 - g1)
    for _ in range(2):
        value = ((a3 * u + a2) * u + s0) * u + g0
        slope = (3.0 * a3 * u + 2.0 * a2) * u + s0
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.clip(np.nan_to_num(u - value / slope, nan=0.5), 0.0, 1.0)
    return u


def _double_crossing(span: Intervals, is_hump_M: BoolArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return both crossings around an interior extremum of g, and whether there are any."""
    slope_sign = np.where(is_hump_M, 1.0, -1.0)
    peak = root(span, margin_slope, np.zeros(len(slope_sign)), np.ones(len(slope_sign)), slope_sign)
    crosses = margin(span, peak)[0] * slope_sign > 0.0
    part, middle = span.take(np.flatnonzero(crosses)), peak[crosses]
    first, second = np.zeros_like(peak), np.ones_like(peak)
    first[crosses] = root(part, margin, np.zeros_like(middle), middle, -slope_sign[crosses])
    second[crosses] = root(part, margin, middle, np.ones_like(middle), slope_sign[crosses])
    return first, second, crosses


def _assemble(
    grid: Grid, nodes: _Nodes, rises: tuple[IntArray, FloatArray], sets: tuple[IntArray, FloatArray]
) -> Passes:
    """Pair rises with sets: sorted by (site, satellite, time) they alternate."""
    at, edge_s, clipped = [], [], []
    for index, u in (rises, sets):
        order = np.lexsort((u, index))
        index, u = index[order], u[order]
        time = nodes.node[index] % grid.num_times
        at.append(index)
        edge_s.append((time + u) * grid.step_s)
        clipped.append((u == 0.0) & ((time == 0) | (time == grid.num_times - 1)))
    site, satellite = nodes.site[at[0]], nodes.node[at[0]] // grid.num_times
    assert np.array_equal(site, nodes.site[at[1]]), "every rise has its set"
    assert np.array_equal(satellite, nodes.node[at[1]] // grid.num_times), "every rise has its set"
    keep = edge_s[1] > edge_s[0]
    return Passes(
        site[keep], satellite[keep], edge_s[0][keep], edge_s[1][keep], clipped[0][keep], clipped[1][keep]
    )


def _highest_deg(grid: Grid, sites: Sites, nodes: _Nodes, follows_C: BoolArray, passes: Passes) -> FloatArray:
    """Return the highest elevation of each pass: at an interior maximum, or at an end that is clipped."""
    highest = sites.mask_deg[passes.site].copy()
    for clipped, edge in ((passes.rise_clipped, 0), (passes.set_clipped, grid.num_times - 1)):
        rows = np.flatnonzero(clipped)
        node = passes.satellite[rows] * grid.num_times + edge
        rho = grid.position_km[:, node].T - sites.position_km[passes.site[rows]]
        up = np.einsum("mc,mc->m", rho, sites.normal[passes.site[rows]])
        across = np.sqrt(np.maximum(np.einsum("mc,mc->m", rho, rho) - up * up, 0.0))
        highest[rows] = np.maximum(highest[rows], np.degrees(np.arctan2(up, across)))
    at = np.flatnonzero(follows_C & (nodes.climb[:-1] > 0.0) & (nodes.climb[1:] <= 0.0))
    span = _intervals(grid, sites, nodes, at)
    u = root(span, climb, np.zeros(len(at)), np.ones(len(at)), np.ones(len(at)))
    satellite, time = np.divmod(nodes.node[at], grid.num_times)
    # One number sorts by (site, satellite, time): windows are further apart than its rounding.
    num_satellites, day = grid.position_km.shape[1] // grid.num_times, 2.0 * grid.num_times * grid.step_s
    key = (nodes.site[at] * num_satellites + satellite) * day + (time + u) * grid.step_s
    base = (passes.site * num_satellites + passes.satellite) * day
    window = np.searchsorted(base + passes.rise_s, key, side="right") - 1
    inside = (window >= 0) & (key <= (base + passes.set_s)[window]) if len(base) else np.zeros(len(at), bool)
    np.maximum.at(highest, window[inside], elevation_deg(span, u)[inside])
    return highest
