"""The window search of `sim.windows.passes` compiled by numba: the same windows, two to three times faster.

It walks each (site, satellite) pair through time alone, and where the satellite is far from the site it
leaps: the central angle shrinks by at most ``turn`` a step, so no pass can begin before
``(angle - reach) / turn`` steps from here.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.windows.geodesy import Sites
from sim.windows.passes import Grid, Passes, reach_and_turn

FloatArray = NDArray[np.float64]

# Those of `sim.windows.hermite`, again: numba's cache of compiled code does not see a change of another file.
TOLERANCE = 1e-7
MAX_ITERATIONS = 60
HAIR = 1e-6

# Windows a satellite may have before its buffer grows.
_FIRST_BUFFER = 16_384


def search_compiled(grid: Grid, sites: Sites, *, with_peaks: bool) -> Passes:
    """Return what `sim.windows.passes.search` returns, satellite by satellite."""
    num_satellites = grid.position_km.shape[1] // grid.num_times
    shape = (3, num_satellites, grid.num_times)
    states = np.concatenate([grid.position_km.reshape(shape), grid.velocity_km_per_s.reshape(shape)])
    states_ST6 = np.ascontiguousarray(np.moveaxis(states, 0, 2))
    reach_SB, turn_S = _limits(grid, sites.mask_deg)
    which, values = np.empty((_FIRST_BUFFER, 3), dtype=np.int64), np.empty((_FIRST_BUFFER, 3))
    found = []
    for row in range(num_satellites):
        while True:
            count = _scan_satellite(
                states_ST6[row],
                sites.position_km,
                sites.normal,
                np.radians(sites.mask_deg),
                grid.step_s,
                reach_SB[row],
                turn_S[row],
                with_peaks,
                which,
                values,
            )
            if count <= len(which):
                break
            which, values = np.empty((2 * count, 3), dtype=np.int64), np.empty((2 * count, 3))
        found.append((np.full(count, row), which[:count].copy(), values[:count].copy()))
    satellite, which, values = (np.concatenate(column) for column in zip(*found, strict=True))
    return Passes(
        site=which[:, 0],
        satellite=satellite,
        rise_s=values[:, 0],
        set_s=values[:, 1],
        rise_clipped=which[:, 1].astype(np.bool_),
        set_clipped=which[:, 2].astype(np.bool_),
        max_elevation_deg=values[:, 2] if with_peaks else None,
    )


def _limits(grid: Grid, mask_deg_B: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return, per satellite, the furthest central angle of a pass over each site and the turn of a step."""
    reach_SB = np.empty((grid.position_km.shape[1] // grid.num_times, len(mask_deg_B)))
    for mask_deg in np.unique(mask_deg_B):
        reach_rad, half_turn_rad = reach_and_turn(grid, float(mask_deg))
        reach_SB[:, mask_deg_B == mask_deg] = reach_rad.max(axis=1, initial=0.0)[:, None]
    return reach_SB, 2.0 * half_turn_rad.max(axis=1, initial=0.0)


@njit(cache=True, error_model="numpy")
def _scan_satellite(
    states_T6: FloatArray,
    sites_B3: FloatArray,
    normal_B3: FloatArray,
    mask_rad_B: FloatArray,
    step_s: float,
    reach_B: FloatArray,
    turn: float,
    with_peaks: bool,
    which: NDArray[np.int64],
    values: FloatArray,
) -> int:
    """Fill in site, clipped flags, rise, set and peak of each window; return how many there are.

    One satellite at a time: its states stay in the processor's cache while the sites go by.
    """
    num_times = states_T6.shape[0]
    up_4, square_7 = np.empty(4), np.empty(7)
    count = 0
    for b in range(len(sites_B3)):
        site_3, normal_3, mask_rad, reach = sites_B3[b], normal_B3[b], mask_rad_B[b], reach_B[b]
        sin_mask = np.sin(mask_rad)
        toward_3 = site_3 / np.sqrt(site_3[0] ** 2 + site_3[1] ** 2 + site_3[2] ** 2)
        cos_far = np.cos(min(np.pi, reach + turn))
        k, last = 0, -2
        before = after = (0.0, 0.0, 0.0, 0.0)
        rise_s, peak, rise_clipped = -1.0, mask_rad, 0
        while k < num_times:
            cos_angle = _cos_angle(states_T6[k], toward_3)
            if cos_angle < cos_far:
                k += max(1, int((np.arccos(max(-1.0, cos_angle)) - reach) / turn))
                continue
            after = _at_node(states_T6[k], site_3, normal_3, sin_mask)
            if k == 0 and after[0] >= 0.0:
                rise_s, rise_clipped, peak = 0.0, 1, np.arcsin(after[3])
            if last == k - 1 and _is_eventful(before, after, with_peaks):
                _between(states_T6, k - 1, site_3, normal_3, step_s, up_4, square_7)
                first, second, top = _events(up_4, square_7, sin_mask, step_s, before, after)
                peak = max(peak, top)
                for u in (first, second):
                    time_s = (k - 1 + u) * step_s
                    if u > 1.0:
                        continue
                    if rise_s < 0.0:
                        rise_s, peak = time_s, max(mask_rad, top)
                        continue
                    if time_s > rise_s:
                        _put(which, values, count, b, rise_clipped, 0, rise_s, time_s, peak)
                        count += 1
                    rise_s, peak, rise_clipped = -1.0, mask_rad, 0
            if k == num_times - 1 and after[0] >= 0.0:
                _put(
                    which,
                    values,
                    count,
                    b,
                    rise_clipped,
                    1,
                    rise_s,
                    k * step_s,
                    max(peak, np.arcsin(after[3])),
                )
                count += 1
            before, last = after, k
            k += 1
    return count


@njit(cache=True, error_model="numpy")
def _put(
    which: NDArray[np.int64],
    values: FloatArray,
    row: int,
    site: int,
    rise_clipped: int,
    set_clipped: int,
    rise_s: float,
    set_s: float,
    peak_rad: float,
) -> None:
    """Write one window, unless the buffer is full: then it is only counted."""
    if row < len(which):
        which[row, 0], which[row, 1], which[row, 2] = site, rise_clipped, set_clipped
        values[row, 0], values[row, 1], values[row, 2] = rise_s, set_s, np.degrees(peak_rad)


@njit(cache=True, error_model="numpy")
def _cos_angle(state_6: FloatArray, toward_3: FloatArray) -> float:
    """Return the cosine of the central angle between a satellite and a direction."""
    x, y, z = state_6[0], state_6[1], state_6[2]
    return (x * toward_3[0] + y * toward_3[1] + z * toward_3[2]) / np.sqrt(x * x + y * y + z * z)


@njit(cache=True, error_model="numpy")
def _at_node(
    state_6: FloatArray, site_3: FloatArray, normal_3: FloatArray, sin_mask: float
) -> tuple[float, float, float, float]:
    """Return g, its slope, what has the sign of the climb, and the sine of the elevation."""
    x, y, z = state_6[0] - site_3[0], state_6[1] - site_3[1], state_6[2] - site_3[2]
    vx, vy, vz = state_6[3], state_6[4], state_6[5]
    up = x * normal_3[0] + y * normal_3[1] + z * normal_3[2]
    up_rate = vx * normal_3[0] + vy * normal_3[1] + vz * normal_3[2]
    square = x * x + y * y + z * z
    along = x * vx + y * vy + z * vz
    distance = np.sqrt(square)
    slope = up_rate - sin_mask * along / distance
    return up - sin_mask * distance, slope, up_rate * square - up * along, up / distance


@njit(cache=True, error_model="numpy")
def _is_eventful(
    before: tuple[float, float, float, float], after: tuple[float, float, float, float], with_peaks: bool
) -> bool:
    """Tell whether an interval may hold a rise, a set, or a highest elevation that is asked for."""
    if (before[0] >= 0.0) != (after[0] >= 0.0):
        return True
    hump = before[0] < 0.0 and before[1] > 0.0 > after[1]
    dip = before[0] >= 0.0 and before[1] < 0.0 < after[1]
    return hump or dip or (with_peaks and before[2] > 0.0 >= after[2])


@njit(cache=True, error_model="numpy")
def _events(
    up_4: FloatArray,
    square_7: FloatArray,
    sin_mask: float,
    step_s: float,
    before: tuple[float, float, float, float],
    after: tuple[float, float, float, float],
) -> tuple[float, float, float]:
    """Return up to two crossings of the mask in an interval (2 for none) and its highest elevation."""
    top = -np.pi
    if before[2] > 0.0 >= after[2]:
        top = _elevation(up_4, square_7, _root(up_4, square_7, sin_mask, 2, 0.0, 1.0, 1.0, 0.5))
    sign = 1.0 if before[0] >= 0.0 else -1.0
    if (before[0] >= 0.0) != (after[0] >= 0.0):
        guess = _guess(before[0], after[0], step_s * before[1], step_s * after[1])
        return _root(up_4, square_7, sin_mask, 0, 0.0, 1.0, sign, guess), 2.0, top
    if before[1] * sign < 0.0 < after[1] * sign:
        middle = _root(up_4, square_7, sin_mask, 1, 0.0, 1.0, -sign, 0.5)
        if _function(up_4, square_7, sin_mask, 0, middle)[0] * sign < 0.0:
            first = _root(up_4, square_7, sin_mask, 0, 0.0, middle, sign, 0.5 * middle)
            second = _root(up_4, square_7, sin_mask, 0, middle, 1.0, -sign, 0.5 * (1.0 + middle))
            return first, second, top
    return 2.0, 2.0, top


@njit(cache=True, error_model="numpy")
def _between(
    states_T6: FloatArray,
    k: int,
    site_3: FloatArray,
    normal_3: FloatArray,
    step_s: float,
    up_4: FloatArray,
    square_7: FloatArray,
) -> None:
    """Fill in the polynomials of `sim.windows.hermite.hermite_intervals` between nodes k and k + 1."""
    up_4[:] = 0.0
    square_7[:] = 0.0
    for c in range(3):
        p0, p1 = states_T6[k, c] - site_3[c], states_T6[k + 1, c] - site_3[c]
        v0, v1 = step_s * states_T6[k, 3 + c], step_s * states_T6[k + 1, 3 + c]
        a2, a3 = 3.0 * (p1 - p0) - 2.0 * v0 - v1, v0 + v1 - 2.0 * (p1 - p0)
        up_4[0] += normal_3[c] * p0
        up_4[1] += normal_3[c] * v0
        up_4[2] += normal_3[c] * a2
        up_4[3] += normal_3[c] * a3
        square_7[0] += p0 * p0
        square_7[1] += 2.0 * p0 * v0
        square_7[2] += 2.0 * p0 * a2 + v0 * v0
        square_7[3] += 2.0 * (p0 * a3 + v0 * a2)
        square_7[4] += 2.0 * v0 * a3 + a2 * a2
        square_7[5] += 2.0 * a2 * a3
        square_7[6] += a3 * a3


@njit(cache=True, error_model="numpy")
def _horner(coefficients: FloatArray, u: float) -> tuple[float, float, float]:
    """Return value, first and second derivative of a polynomial."""
    value, first, half_second = coefficients[-1], 0.0, 0.0
    for i in range(len(coefficients) - 2, -1, -1):
        half_second = half_second * u + first
        first = first * u + value
        value = value * u + coefficients[i]
    return value, first, 2.0 * half_second


@njit(cache=True, error_model="numpy")
def _function(
    up_4: FloatArray, square_7: FloatArray, sin_mask: float, kind: int, u: float
) -> tuple[float, float]:
    """Return value and slope: of g (kind 0), of dg/du (1), of what has the sign of the climb (2)."""
    up, up_1, up_2 = _horner(up_4, u)
    square, square_1, square_2 = _horner(square_7, u)
    if kind == 2:
        value = up_1 * square - 0.5 * up * square_1
        return value, up_2 * square + 0.5 * up_1 * square_1 - 0.5 * up * square_2
    distance = np.sqrt(square)
    distance_1 = 0.5 * square_1 / distance
    if kind == 0:
        return up - sin_mask * distance, up_1 - sin_mask * distance_1
    distance_2 = (0.5 * square_2 - distance_1 * distance_1) / distance
    return up_1 - sin_mask * distance_1, up_2 - sin_mask * distance_2


@njit(cache=True, error_model="numpy")
def _root(
    up_4: FloatArray,
    square_7: FloatArray,
    sin_mask: float,
    kind: int,
    low: float,
    high: float,
    sign_low: float,
    guess: float,
) -> float:
    """Return a root as `sim.windows.hermite.root` does."""
    u = guess
    for _ in range(MAX_ITERATIONS):
        value, slope = _function(up_4, square_7, sin_mask, kind, u)
        if value * sign_low > 0.0:
            low = u
        else:
            high = u
        newton = u - value / slope
        inside = low - HAIR <= newton <= high + HAIR
        chosen = min(max(newton, low), high) if inside else 0.5 * (low + high)
        moved = abs(chosen - u)
        u = chosen
        if moved <= TOLERANCE or high - low <= TOLERANCE:
            break
    return u


@njit(cache=True, error_model="numpy")
def _guess(g0: float, g1: float, s0: float, s1: float) -> float:
    """Return where the cubic Hermite interpolant of g crosses zero, nearly."""
    a2, a3 = 3.0 * (g1 - g0) - 2.0 * s0 - s1, 2.0 * (g0 - g1) + s0 + s1
    u = g0 / (g0 - g1)
    for _ in range(2):
        value = ((a3 * u + a2) * u + s0) * u + g0
        newton = u - value / ((3.0 * a3 * u + 2.0 * a2) * u + s0)
        u = min(max(newton, 0.0), 1.0) if newton == newton else 0.5
    return u


@njit(cache=True, error_model="numpy")
def _elevation(up_4: FloatArray, square_7: FloatArray, u: float) -> float:
    """Return the elevation in radians."""
    up = _horner(up_4, u)[0]
    square = _horner(square_7, u)[0]
    return np.arctan2(up, np.sqrt(max(square - up * up, 0.0)))
