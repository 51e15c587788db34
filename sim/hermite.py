"""A satellite's motion between two grid nodes as polynomials, and safeguarded roots on them.

With cubic Hermite position, ``rho . n`` is a cubic and ``|rho|^2`` a sextic in u, from 0 at one node to
1 at the next. Legend of shape suffixes: M intervals.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_TOLERANCE = 1e-10  # of a grid step: nanoseconds
_MAX_ITERATIONS = 60
# Further out than this (in u) an iterate has left its bracket; see `root`.
_HAIR = 1e-6


class Intervals(NamedTuple):
    """M intervals of one (site, satellite) each."""

    up: FloatArray  # [M, 4]
    square: FloatArray  # [M, 7]
    sin_mask: FloatArray  # [M]

    def take(self, rows: NDArray[np.int64]) -> "Intervals":
        """Return some of the intervals."""
        return Intervals(self.up[rows], self.square[rows], self.sin_mask[rows])


def hermite_intervals(
    step_s: float,
    position_km: tuple[FloatArray, FloatArray],
    velocity_km_per_s: tuple[FloatArray, FloatArray],
    site_km_3M: FloatArray,
    normal_3M: FloatArray,
    sin_mask_M: FloatArray,
) -> Intervals:
    """Return the polynomials between two nodes; positions and velocities are [3, M] at either end."""
    count = site_km_3M.shape[1]
    up_M4, square_M7 = np.zeros((count, 4)), np.zeros((count, 7))
    for c in range(3):
        r0, r1 = position_km[0][c], position_km[1][c]
        v0, v1 = step_s * velocity_km_per_s[0][c], step_s * velocity_km_per_s[1][c]
        powers = (
            r0 - site_km_3M[c],
            v0,
            3.0 * (r1 - r0) - 2.0 * v0 - v1,
            2.0 * (r0 - r1) + v0 + v1,
        )
        for i, a in enumerate(powers):
            up_M4[:, i] += normal_3M[c] * a
            for j, b in enumerate(powers):
                square_M7[:, i + j] += a * b
    return Intervals(up_M4, square_M7, sin_mask_M)


def margin(span: Intervals, u_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return g = rho . n - sin(mask) |rho| in km, >= 0 in contact, and dg/du."""
    up, up_1, _ = _polynomial(span.up, u_M)
    square, square_1, _ = _polynomial(span.square, u_M)
    distance = np.sqrt(square)
    return up - span.sin_mask * distance, up_1 - span.sin_mask * 0.5 * square_1 / distance


def margin_slope(span: Intervals, u_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return dg/du and its derivative."""
    _, up_1, up_2 = _polynomial(span.up, u_M)
    square, square_1, square_2 = _polynomial(span.square, u_M)
    distance = np.sqrt(square)
    distance_1 = 0.5 * square_1 / distance
    distance_2 = (0.5 * square_2 - distance_1 * distance_1) / distance
    return up_1 - span.sin_mask * distance_1, up_2 - span.sin_mask * distance_2


def climb(span: Intervals, u_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return what has the sign of the elevation's derivative, and the derivative of that."""
    up, up_1, up_2 = _polynomial(span.up, u_M)
    square, square_1, square_2 = _polynomial(span.square, u_M)
    return up_1 * square - 0.5 * up * square_1, up_2 * square + 0.5 * up_1 * square_1 - 0.5 * up * square_2


def elevation_deg(span: Intervals, u_M: FloatArray) -> FloatArray:
    """Return the elevation above the horizontal plane of the site, in degrees."""
    up, _, _ = _polynomial(span.up, u_M)
    square, _, _ = _polynomial(span.square, u_M)
    # Not arcsin(up / distance), which loses half its digits at the zenith.
    degrees: FloatArray = np.degrees(np.arctan2(up, np.sqrt(np.maximum(square - up * up, 0.0))))
    return degrees


def root(
    span: Intervals,
    function: Callable[[Intervals, FloatArray], tuple[FloatArray, FloatArray]],
    low_M: FloatArray,
    high_M: FloatArray,
    sign_low_M: FloatArray,
) -> FloatArray:
    """Return a root of a function in each bracket, where it has the sign ``sign_low`` at ``low``.

    Newton from the middle; an iterate that leaves the bracket is replaced by the middle of what is
    left of it. An iterate that leaves by a hair is only pulled back to the edge: bisecting there throws
    away a converged root that lies on the edge, which once lost a pass of 28 s (STARLINK-1050 of
    2021-01-30, kept as a test).

    Parameters
    ----------
    span : Intervals
        M of them.
    function : callable
        Gives value and slope at u [M], such as `margin`.
    low_M, high_M : float64 [M]
        Brackets within [0, 1]; not modified.
    sign_low_M : float64 [M]
        +1 or -1.

    Returns
    -------
    float64 [M]
        Within the brackets.
    """
    low, high = low_M.copy(), high_M.copy()
    u = 0.5 * (low + high)
    active = np.arange(len(u))
    for _ in range(_MAX_ITERATIONS):
        if not len(active):
            break
        part = span if len(active) == len(u) else span.take(active)
        at = u[active]
        value, slope = function(part, at)
        on_low_side = value * sign_low_M[active] > 0.0
        edge_low = np.where(on_low_side, at, low[active])
        edge_high = np.where(on_low_side, high[active], at)
        low[active], high[active] = edge_low, edge_high
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = at - value / slope
        inside = (newton >= edge_low - _HAIR) & (newton <= edge_high + _HAIR)
        chosen = np.where(inside, np.clip(newton, edge_low, edge_high), 0.5 * (edge_low + edge_high))
        u[active] = chosen
        active = active[(np.abs(chosen - at) > _TOLERANCE) & (edge_high - edge_low > _TOLERANCE)]
    return u


def _polynomial(coefficients_MK: FloatArray, u_M: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return value, first and second derivative (Horner)."""
    value, first, half_second = coefficients_MK[:, -1], np.zeros_like(u_M), np.zeros_like(u_M)
    for k in range(coefficients_MK.shape[1] - 2, -1, -1):
        half_second = half_second * u_M + first
        first = first * u_M + value
        value = value * u_M + coefficients_MK[:, k]
    return value, first, 2.0 * half_second
