"""What a device holds of a model while it tunes it, known from the layout alone; free of torch.

Counted are the weights of the sub-model, the tuned arrays, their gradients and the optimiser's state:
what stays from step to step. Not counted are activations, which grow with the batch and the blocks, and
whatever else the passes of one step make and drop, such as copies of weights in the model's dtype.
"""

import math
from collections.abc import Mapping

from moe.experts import ExpertLayout, Tuning
from moe.factors import shared_shapes, tuned_shapes

FLOAT32_BYTES = 4
"""Tuned arrays, gradients and optimiser state are float32, whatever the dtype of the model."""

STATE_ARRAYS: Mapping[str, int] = {"adamw": 2, "sgd": 0}
"""Arrays of a tuned array's shape that an optimiser keeps for it: AdamW its two moments, SGD, without
momentum, none. AdamW's count of steps, 4 bytes an array, is left out."""


def kept_expert_bytes(layout: ExpertLayout, tuning: Tuning) -> dict[int, int]:
    """Return what one expert of a sub-model holds with its tuned arrays attached.

    Parameters
    ----------
    layout : ExpertLayout
        Of the base, in the dtype the model is held in.
    tuning : Tuning
        LoRA adds its factors to the frozen weights, frozen ``A`` included. ``full`` holds the weights
        and biases as float32 instead. Router rows add the changes of the expert's row.

    Returns
    -------
    dict[int, int]
        Decoder layer -> bytes; of a layer that is not tuned, those of the frozen weights.

    Raises
    ------
    ValueError
        As `moe.factors.tuned_shapes`.
    """
    added = FLOAT32_BYTES * _num_tuned(layout, tuning)
    if tuning.method == "ffa":
        added += FLOAT32_BYTES * tuning.lora_rank * sum(width for _, width in layout.shapes.values())
    held = {
        layer: (0 if tuning.method == "full" else layout.expert_bytes[layer]) + added
        for layer in layout.layers
    }
    return {
        layer: count if tuning.tunes(layer) else layout.expert_bytes[layer] for layer, count in held.items()
    }


def tuned_expert_bytes(layout: ExpertLayout, tuning: Tuning, optimizer: str) -> dict[int, int]:
    """Return what one expert holds while it is tuned: as kept, with gradients and optimiser state.

    It is all in use once tokens have come to the expert; until then an expert has neither gradient nor
    state.

    Parameters
    ----------
    layout, tuning : ExpertLayout, Tuning
        As `kept_expert_bytes`.
    optimizer : {"adamw", "sgd"}
        Of the local training.

    Returns
    -------
    dict[int, int]
        Decoder layer -> bytes.

    Raises
    ------
    ValueError
        If the optimiser is none of these, or as `moe.factors.tuned_shapes`.
    """
    if optimizer not in STATE_ARRAYS:
        raise ValueError(f"train.optimizer must be one of {', '.join(STATE_ARRAYS)}, got {optimizer!r}")
    moving = FLOAT32_BYTES * _num_tuned(layout, tuning) * (1 + STATE_ARRAYS[optimizer])
    return {
        layer: kept + moving * tuning.tunes(layer)
        for layer, kept in kept_expert_bytes(layout, tuning).items()
    }


def tuned_shared_bytes(layout: ExpertLayout, tuning: Tuning, optimizer: str | None = None) -> int:
    """Return what the adapters of the tuned shared parts add to every sub-model, whatever its experts.

    Parameters
    ----------
    layout, tuning : ExpertLayout, Tuning
        As `kept_expert_bytes`.
    optimizer : {"adamw", "sgd"} or None
        With gradients and its state; None: while it is not trained.

    Raises
    ------
    ValueError
        As `moe.factors.shared_shapes`.
    """
    moving = 0 if optimizer is None else 1 + STATE_ARRAYS[optimizer]
    total = 0
    for layer, shapes in shared_shapes(layout, tuning).items():
        total += sum(math.prod(shape) for shape in shapes.values()) * (1 + moving)
        if tuning.method == "ffa":
            linears = [layout.linears[part].get(layer, {}) for part in tuning.shared_parts]
            total += tuning.lora_rank * sum(width for of in linears for _, width in of.values())
    return FLOAT32_BYTES * total


def _num_tuned(layout: ExpertLayout, tuning: Tuning) -> int:
    """Return how many numbers of one expert are trained; the same in every layer."""
    return sum(math.prod(shape) for shape in tuned_shapes(layout, tuning).values())
