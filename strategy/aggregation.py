"""The merge rule: a per-expert discounted mean that is exact for the tuned weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId, ParameterKey
from strategy.defence.outliers import norm_of
from strategy.defence.robust import Robust, clip_factors, combined


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedDelta:
    """What one node adds to the experts it trained.

    Parameters
    ----------
    delta : ExpertArrays
        Trained value minus the value it started from, per array; *adding* it moves toward the node.
    num_examples : int
        Examples behind it, > 0.
    discounts : Mapping[ExpertId, float]
        In [0, 1] for every expert that ``delta`` carries.
    """

    delta: ExpertArrays
    num_examples: int
    discounts: Mapping[ExpertId, float]


def merge_experts(
    base: ExpertArrays,
    updates: Sequence[WeightedDelta],
    *,
    server_learning_rate: float = 1.0,
    min_total_examples: int = 0,
    robust: Robust = "none",
) -> ExpertArrays:
    """Return ``base`` moved by the discounted mean of the deltas that reach each array.

    For each array p, over the updates i that carry p::

        new[p] = base[p] + server_learning_rate * sum(n_i * f_i * delta_i[p]) / sum(n_i)

    The divisor is sum(n_i), *not* sum(n_i * f_i): dividing by the discounts would cancel them,
    and a lone stale update (the common case for an expert that one cluster owns) would be applied
    at full strength. The rule is linear in delta, so with a frozen ``A`` the mean of the ``B``
    is the mean of the products ``B @ A``: nothing is lost to averaging factors. Where ``A`` is tuned
    too (FedIT), it is exact for one update at full strength only: the mean of ``A`` times the mean of
    ``B`` is not the mean of the products.

    Parameters
    ----------
    base : ExpertArrays
        Server values, any shapes; not modified.
    updates : sequence of WeightedDelta
        May be empty, and may carry different experts.
    server_learning_rate : float
        Step size on the server, > 0 (Reddi et al. 2021, eta).
    min_total_examples : int
        The divisor is at least this: the examples of a whole cluster when devices that stayed
        silent shall count with a delta of zero; 0 counts the reporting devices only.
    robust : {"none", "clip", "trimmed-mean", "median"}
        What stands in the place of the mean where three updates or more meet; see `strategy.defence.robust`.
        The terms are the discounted deltas, so that what is stale stays small.

    Returns
    -------
    ExpertArrays
        Same keys, shapes and dtypes as ``base``. An array that no update carries is the same object.

    Raises
    ------
    ValueError
        If an update carries an array that ``base`` lacks or of another shape, or has no examples.

    Source
    ------
    Buffered mean: Nguyen et al. 2022 (FedBuff), Algorithm 1. Per-expert support and the divisor:
    this project.

    Examples
    --------
    >>> from moe.experts import ParameterKey
    >>> key = ParameterKey(0, 3, "fc_in.lora_B")
    >>> late = WeightedDelta(delta={key: np.ones(2, np.float32)}, num_examples=8,
    ...                      discounts={key.expert: 0.25})
    >>> merge_experts({key: np.zeros(2, np.float32)}, [late])[key]
    array([0.25, 0.25], dtype=float32)
    """
    for update in updates:
        _check(base, update)
    factors = clip_factors([norm_of(u.delta) for u in updates]) if robust == "clip" else [1.0] * len(updates)
    merged = dict(base)
    for key, old in base.items():
        carrying = [(u, factor) for u, factor in zip(updates, factors, strict=True) if key in u.delta]
        if carrying:
            examples = [update.num_examples for update, _ in carrying]
            total = max(sum(examples), min_total_examples)
            if robust in ("none", "clip"):
                step = _weighted_sum(key, carrying) / total
            else:
                terms = [u.discounts[key.expert] * u.delta[key].astype(np.float64) for u, _ in carrying]
                step = combined(terms, examples, robust) * (sum(examples) / total)
            merged[key] = (old + server_learning_rate * step).astype(old.dtype)
    return merged


def _weighted_sum(key: ParameterKey, carrying: Sequence[tuple[WeightedDelta, float]]) -> NDArray[np.float64]:
    # float64: the sum must not depend on how many devices a cluster has.
    total = np.zeros(carrying[0][0].delta[key].shape, np.float64)
    for update, factor in carrying:
        weight = update.num_examples * update.discounts[key.expert] * factor
        total += weight * update.delta[key].astype(np.float64)
    return total


def _check(base: ExpertArrays, update: WeightedDelta) -> None:
    if update.num_examples <= 0:
        raise ValueError(f"an update must stand for at least one example, got {update.num_examples}")
    for key, delta in update.delta.items():
        if key not in base:
            raise ValueError(f"an update carries {key}, which the server does not tune")
        if delta.shape != base[key].shape:
            raise ValueError(f"an update of {key} has shape {delta.shape}; it must be {base[key].shape}")
