"""How far tuning has moved each expert."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId, ExpertLayout, ParameterKey, Tuning
from moe.factors import PROJECTIONS
from moe.tuning.merge import lora_change


def change_norms(
    layout: ExpertLayout, initial: ExpertArrays, values: ExpertArrays, tuning: Tuning
) -> dict[ExpertId, float]:
    """Return the Frobenius norm of the change of every expert's weights and biases since ``initial``.

    For adapters it is that of ``scale * B @ A``, which begins at zero. Rows of the router are no weights
    of the expert and are left out, as are shared parts.
    """
    if tuning.method == "full":
        return _full_norms(initial, values)
    norms = {}
    for expert in sorted({key.expert for key in values if not key.is_shared}):
        changes = [lora_change(values, tuning, expert, name, layout.shapes[name][1]) for name in PROJECTIONS]
        norms[expert] = math.sqrt(sum(float((change**2).sum()) for change in changes if change is not None))
    return norms


def _full_norms(
    initial: Mapping[ParameterKey, NDArray[np.float32]], values: ExpertArrays
) -> dict[ExpertId, float]:
    squares: dict[ExpertId, float] = {}
    for key, value in values.items():
        if key.name.partition(".")[0] in PROJECTIONS:
            moved = (value.astype(np.float64) - initial[key]) ** 2
            squares[key.expert] = squares.get(key.expert, 0.0) + float(moved.sum())
    return {expert: math.sqrt(square) for expert, square in squares.items()}
