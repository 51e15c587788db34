"""Tuned experts as they are in the full model: base and change, always from the base."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from moe.disk.storage import Storage
from moe.experts import ExpertArrays, ExpertId, ParameterKey, Tuning
from moe.factors import lora_factor

Change = Callable[[ExpertId, str, int], Tensor | None]
"""Expert, projection and its in_features -> change of its weight ``[out, in]``, float32; None where none."""


def merged_experts(
    storage: Storage, arrays: ExpertArrays, tuning: Tuning
) -> Iterator[tuple[ExpertId, dict[str, Tensor]]]:
    """Yield each expert of the arrays with its merged parts of the stored tensors.

    They are float32 where changed: the sum of base and change is rounded once, by whoever stores it.
    """
    experts = sorted({key.expert for key in arrays if not key.is_shared})
    if tuning.method == "full":
        yield from _replaced(storage, experts, arrays)
    else:
        yield from changed_experts(storage, experts, partial(lora_change, arrays, tuning))


def changed_experts(
    storage: Storage, experts: Iterable[ExpertId], change: Change
) -> Iterator[tuple[ExpertId, dict[str, Tensor]]]:
    """Yield each expert with its change added, as `merged_experts`."""
    for expert in experts:
        block = storage.blocks[expert.layer]
        weights, biases = block.unfuse(storage.read_expert(expert.layer, expert.index))
        for projection, weight in weights.items():
            added = change(expert, projection, weight.shape[1])
            if added is not None:
                weights[projection] = weight.float() + added
        yield expert, block.fuse(weights, biases)


def lora_change(
    arrays: ExpertArrays, tuning: Tuning, expert: ExpertId, projection: str, in_features: int
) -> Tensor | None:
    """Return ``scale * B @ A`` ``[out, in]``, float32; None if ``B`` is zero or absent."""
    b_factor = arrays.get(ParameterKey(expert.layer, expert.index, f"{projection}.lora_B"))
    if b_factor is None or not b_factor.any():
        return None
    key = ParameterKey(expert.layer, expert.index, f"{projection}.lora_A")
    product = torch.from_numpy(np.ascontiguousarray(b_factor)) @ torch.from_numpy(
        np.ascontiguousarray(lora_factor(arrays, tuning, key, in_features))
    )
    return product * tuning.scale


def _replaced(
    storage: Storage, experts: Iterable[ExpertId], arrays: ExpertArrays
) -> Iterator[tuple[ExpertId, dict[str, Tensor]]]:
    """Yield each expert with the weights and biases that the arrays give it."""
    for expert in experts:
        block = storage.blocks[expert.layer]
        weights, biases = block.unfuse(storage.read_expert(expert.layer, expert.index))
        for part, tensors in (("weight", weights), ("bias", biases)):
            for projection in tensors:
                value = tuned_part(arrays, expert, f"{projection}.{part}")
                if value is not None:
                    tensors[projection] = value
        yield expert, block.fuse(weights, biases)


def tuned_part(arrays: ExpertArrays, expert: ExpertId, name: str) -> Tensor | None:
    """Return one tuned array of an expert; None where it has none."""
    value = arrays.get(ParameterKey(expert.layer, expert.index, name))
    return None if value is None else torch.from_numpy(np.ascontiguousarray(value))
