"""FedAsync's rule: the server's value moves a part of the way to the device's."""

from collections.abc import Mapping

import numpy as np

from moe.experts import ExpertArrays, ExpertId


def mix_in(base: ExpertArrays, values: ExpertArrays, strength: Mapping[ExpertId, float]) -> ExpertArrays:
    """Return ``base``, and for every array of an update ``(1 - alpha) * base[p] + alpha * values[p]``.

    Parameters
    ----------
    base : ExpertArrays
        Server values; not modified.
    values : ExpertArrays
        What a device trained them to, some or all.
    strength : Mapping[ExpertId, float]
        Alpha of every expert in ``values``, in [0, 1].

    Raises
    ------
    ValueError
        If an alpha is not in [0, 1]: the server's model would overshoot the device's.

    Source
    ------
    Xie, Koyejo, Gupta 2019, arXiv 1903.03934, Algorithm 1.
    """
    if wrong := {alpha for alpha in strength.values() if not 0.0 <= alpha <= 1.0}:
        raise ValueError(
            f"FedAsync mixes with a strength in [0, 1], got {max(wrong)}; lower the server's rate"
        )
    mixed = dict(base)
    for key, value in values.items():
        alpha = strength[key.expert]
        old = base[key].astype(np.float64)
        mixed[key] = (old + alpha * (value.astype(np.float64) - old)).astype(base[key].dtype)
    return mixed
