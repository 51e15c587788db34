"""Means that a few hostile updates cannot move far; of the updates of one pass, for each array by itself.

None of them helps where fewer than three updates meet: of two nobody can tell which one lies.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Robust = Literal["none", "clip", "trimmed-mean", "median"]
"""How the updates of a pass are combined."""

LEAST = 3
"""Updates of a pass below which all rules are the plain mean."""
TRIMMED_SHARE = 0.2
"""Part of the updates that the trimmed mean drops at each end, rounded down, but one at least."""

Array64 = NDArray[np.float64]


def clip_factors(norms: Sequence[float]) -> list[float]:
    """Return what each update is scaled by, so that none is longer than the median one.

    Parameters
    ----------
    norms : sequence of float
        Euclidean norm of each update, >= 0.

    Source
    ------
    Norm clipping: Sun et al. 2019, arXiv 1911.07963, section 4. The bound is the median of the pass, so that
    there is none to choose.

    Examples
    --------
    >>> clip_factors([1.0, 2.0, 8.0])
    [1.0, 1.0, 0.25]
    """
    if len(norms) < LEAST:
        return [1.0] * len(norms)
    bound = float(np.median(norms))
    return [1.0 if norm <= bound else bound / norm for norm in norms]


def combined(terms: Sequence[Array64], weights: Sequence[int], rule: Robust) -> Array64:
    """Return one array's step: the mean of the terms, weighted by examples, or a robust one.

    Parameters
    ----------
    terms : sequence of arrays
        Discounted deltas, at least one, of one shape.
    weights : sequence of int
        Examples behind each, > 0.
    rule : {"none", "clip", "trimmed-mean", "median"}
        ``trimmed-mean``: of each coordinate the `TRIMMED_SHARE` largest and smallest are left out.
        ``median``: of each coordinate the middle one, however many examples are behind it. ``clip`` is no
        other mean than ``none``: see `clip_factors`.

    Source
    ------
    Yin et al. 2018, arXiv 1803.01498, definitions 1 and 2; theirs are of workers with equally many examples.

    Examples
    --------
    >>> combined([np.array([1.0]), np.array([2.0]), np.array([900.0])], [1, 1, 1], "median")
    array([2.])
    """
    stack_N = np.stack(terms)
    weight_N = np.asarray(weights, np.float64).reshape(-1, *[1] * (stack_N.ndim - 1))
    if rule in ("none", "clip") or len(terms) < LEAST:
        total: Array64 = (stack_N * weight_N).sum(axis=0) / weight_N.sum()
        return total
    if rule == "median":
        return np.asarray(np.median(stack_N, axis=0))
    dropped = max(1, int(TRIMMED_SHARE * len(terms)))
    order_N = np.argsort(stack_N, axis=0, kind="stable")[dropped : len(terms) - dropped]
    kept_N = np.take_along_axis(np.broadcast_to(weight_N, stack_N.shape), order_N, axis=0)
    trimmed: Array64 = (np.take_along_axis(stack_N, order_N, axis=0) * kept_N).sum(axis=0) / kept_N.sum(
        axis=0
    )
    return trimmed
