"""Store and forward: what a satellite without inter-satellite links adds to the delay of a contact.

Such a satellite keeps what a cluster sent until it is over a gateway. The wait is measured on the sky:
from the end of the pass over the cluster to the next rise over any gateway. The way down is taken to be
as slow, so that a model is as old on arrival as an update.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.windows.finder import WindowTable

FloatArray = NDArray[np.float64]


def forward_wait_s(passes: WindowTable, gateways: WindowTable) -> FloatArray:
    """Return how long each pass over a cluster waits for a gateway.

    Parameters
    ----------
    passes : WindowTable
        Windows over clusters, N rows.
    gateways : WindowTable
        Windows of the same satellites over gateways.

    Returns
    -------
    float64 [N]
        Seconds: 0 where a gateway is in view when the pass ends, infinite where none follows.
    """
    wait_s = np.full(len(passes.rise_s), np.inf)
    for satellite in np.unique(passes.satellite):
        rows = np.flatnonzero(passes.satellite == satellite)
        begin_s, end_s = _union(
            gateways.rise_s[gateways.satellite == satellite], gateways.set_s[gateways.satellite == satellite]
        )
        # The first gateway contact that is not over when the pass ends.
        index = np.searchsorted(end_s, passes.set_s[rows], side="left")
        there = index < len(end_s)
        follows = np.append(begin_s, np.inf)[index]
        wait_s[rows[there]] = np.maximum(0.0, follows[there] - passes.set_s[rows[there]])
    return wait_s


def _union(rise_s: FloatArray, set_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the union of intervals as sorted, disjoint begins and ends."""
    order: Sequence[int] = np.argsort(rise_s, kind="stable").tolist()
    begins: list[float] = []
    ends: list[float] = []
    for row in order:
        if ends and rise_s[row] <= ends[-1]:
            ends[-1] = max(ends[-1], float(set_s[row]))
        else:
            begins.append(float(rise_s[row]))
            ends.append(float(set_s[row]))
    return np.array(begins), np.array(ends)
