"""A satellite's motion between two grid nodes as polynomials, and safeguarded roots on them.

With cubic Hermite position, ``rho . n`` is a cubic and ``|rho|^2`` a sextic in u, from 0 at one node to
1 at the next. Legend of shape suffixes: M intervals.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Of a grid step, between two iterates: the error of the last is its square, far below a microsecond.
TOLERANCE = 1e-7
MAX_ITERATIONS = 60
# Further out than this (in u) an iterate has left its bracket; see `root`.
HAIR = 1e-6


class Intervals(NamedTuple):
    """M intervals of one (site, satellite) each."""

    up: FloatArray  # [4, M], from the constant upwards
    square: FloatArray  # [7, M]
    sin_mask: FloatArray  # [M]

    def take(self, rows: NDArray[np.int64]) -> "Intervals":
        """Return some of the intervals."""
        return Intervals(self.up.take(rows, axis=1), self.square.take(rows, axis=1), self.sin_mask.take(rows))


def hermite_intervals(
    step_s: float,
    position_km: tuple[FloatArray, FloatArray],
    velocity_km_per_s: tuple[FloatArray, FloatArray],
    site_km_3M: FloatArray,
    normal_3M: FloatArray,
    sin_mask_M: FloatArray,
) -> Intervals:
    """Return the polynomials between two nodes; positions and velocities are [3, M] at either end."""
    p0, p1 = position_km[0] - site_km_3M, position_km[1] - site_km_3M
    v0, v1 = step_s * velocity_km_per_s[0], step_s * velocity_km_per_s[1]
    across = p1 - p0
    powers = (p0, v0, 3.0 * across - 2.0 * v0 - v1, v0 + v1 - 2.0 * across)
    up_4M = np.stack([_dot(normal_3M, a) for a in powers])
    square_7M = np.zeros((7, p0.shape[1]))
    for i, a in enumerate(powers):
        square_7M[2 * i] += _dot(a, a)
        for j in range(i + 1, 4):
            square_7M[i + j] += 2.0 * _dot(a, powers[j])
    return Intervals(up_4M, square_7M, sin_mask_M)


def _dot(a_3M: FloatArray, b_3M: FloatArray) -> FloatArray:
    """Return the inner products of two rows of vectors."""
    product: FloatArray = a_3M[0] * b_3M[0] + a_3M[1] * b_3M[1] + a_3M[2] * b_3M[2]
    return product


def margin(span: Intervals, u_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return g = rho . n - sin(mask) |rho| in km, >= 0 in contact, and dg/du."""
    up, up_1 = _value_and_slope(span.up, u_M)
    square, square_1 = _value_and_slope(span.square, u_M)
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
    up, _ = _value_and_slope(span.up, u_M)
    square, _ = _value_and_slope(span.square, u_M)
    # Not arcsin(up / distance), which loses half its digits at the zenith.
    degrees: FloatArray = np.degrees(np.arctan2(up, np.sqrt(np.maximum(square - up * up, 0.0))))
    return degrees


def root(
    span: Intervals,
    function: Callable[[Intervals, FloatArray], tuple[FloatArray, FloatArray]],
    low_M: FloatArray,
    high_M: FloatArray,
    sign_low_M: FloatArray,
    *,
    guess_M: FloatArray | None = None,
) -> FloatArray:
    """Return a root of a function in each bracket, where it has the sign ``sign_low`` at ``low``.

    Newton from a guess or the middle; an iterate that leaves the bracket is replaced by the middle of what is
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
    guess_M : float64 [M], optional
        Where to begin, within the brackets.

    Returns
    -------
    float64 [M]
        Within the brackets.
    """
    low, high = low_M.copy(), high_M.copy()
    u = 0.5 * (low + high) if guess_M is None else guess_M.copy()
    active = np.arange(len(u))
    for _ in range(MAX_ITERATIONS):
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
        inside = (newton >= edge_low - HAIR) & (newton <= edge_high + HAIR)
        chosen = np.where(inside, np.clip(newton, edge_low, edge_high), 0.5 * (edge_low + edge_high))
        u[active] = chosen
        active = active[(np.abs(chosen - at) > TOLERANCE) & (edge_high - edge_low > TOLERANCE)]
    return u


def _value_and_slope(coefficients_KM: FloatArray, u_M: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return value and first derivative (Horner)."""
    value, first = coefficients_KM[-1] * u_M + coefficients_KM[-2], coefficients_KM[-1]
    for coefficient_M in coefficients_KM[-3::-1]:
        first = first * u_M + value
        value = value * u_M + coefficient_M
    return value, first


def _polynomial(coefficients_KM: FloatArray, u_M: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return value, first and second derivative (Horner)."""
    value, first, half_second = coefficients_KM[-1], np.zeros_like(u_M), np.zeros_like(u_M)
    for coefficient_M in coefficients_KM[-2::-1]:
        half_second = half_second * u_M + first
        first = first * u_M + value
        value = value * u_M + coefficient_M
    return value, first, 2.0 * half_second
