"""Which updates of a pass are much longer than their companions: told, whatever the merge does with them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moe.experts import ParameterKey
from strategy.defence.robust import LEAST

FAR = 10.0
"""Times the median norm of its pass above which an update is told of."""


def norm_of(delta: Mapping[ParameterKey, NDArray[np.float32]]) -> float:
    """Return the Euclidean norm of all arrays of an update together."""
    return float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in delta.values())))


def outliers(norms: Sequence[float]) -> list[int]:
    """Return the places of the updates that are more than `FAR` times as long as the median one.

    Examples
    --------
    >>> outliers([1.0, 1.2, 50.0])
    [2]
    """
    if len(norms) < LEAST:
        return []
    median = float(np.median(norms))
    return [at for at, norm in enumerate(norms) if norm > FAR * median]
