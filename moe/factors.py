"""What one expert's arrays are: their names, shapes, and the seeded factor every machine can draw."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertLayout, ParameterKey, Tuning

PROJECTIONS = ("fc_in", "fc_out")
"""The linear layers of an un-fused expert."""
ROUTER_ROW = "router.row"
"""The change of an expert's row of the router."""


def frozen_factor(tuning: Tuning, key: ParameterKey, in_features: int) -> NDArray[np.float32]:
    """Return the LoRA factor ``A`` that one projection starts with; the same on every machine and process.

    ``ffa`` keeps it frozen.

    Uniform in ``±1/sqrt(in_features)``, which is the kaiming-uniform (a = sqrt 5) that PEFT draws by
    default.

    Parameters
    ----------
    tuning : Tuning
        Its ``seed`` and ``lora_rank`` are used.
    key : ParameterKey
        Which factor, named ``fc_in.lora_A`` or ``fc_out.lora_A``.
    in_features : int
        Width of the projection's input.

    Returns
    -------
    NDArray ``[lora_rank, in_features]``
    """
    text = f"{tuning.seed}/{key.layer}/{key.index}/{key.name}".encode()
    # Not hash(): that is salted per process, and device and server must agree.
    seed = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    bound = in_features**-0.5
    drawn = np.random.Generator(np.random.PCG64(seed)).uniform(-bound, bound, (tuning.lora_rank, in_features))
    return drawn.astype(np.float32)


def tuned_shapes(layout: ExpertLayout, tuning: Tuning) -> dict[str, tuple[int, ...]]:
    """Return the array names of one expert under a tuning, with their shapes.

    Raises
    ------
    ValueError
        If router rows are asked of a model whose routers have none.
    """
    shapes = _full_shapes(layout) if tuning.method == "full" else _lora_shapes(layout, tuning)
    if tuning.router_rows:
        if layout.router_width is None:
            raise ValueError(
                f"train.router-rows cannot tune {layout.family!r}: not all of its routers have one weight "
                "with a row for each expert; turn it off"
            )
        shapes[ROUTER_ROW] = (layout.router_width,)
    return shapes


def shared_shapes(layout: ExpertLayout, tuning: Tuning) -> dict[int, dict[str, tuple[int, ...]]]:
    """Return the array names of the tuned shared parts with their shapes, by decoder layer.

    Raises
    ------
    ValueError
        If the model has none of a part that is to be tuned.
    """
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for part in tuning.shared_parts:
        if not (by_layer := layout.linears.get(part)):
            raise ValueError(
                f"train.parts names {part}, and {layout.family!r} has no linear layers of that kind; it has "
                f"{', '.join(['experts', *layout.linears])}"
            )
        for layer, linears in by_layer.items():
            if tuning.covers(layer):
                shapes.setdefault(layer, {}).update(_lora_pairs(linears, tuning))
    return shapes


def _full_shapes(layout: ExpertLayout) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in layout.shapes.items()}
    return shapes | {f"{name}.bias": layout.shapes[name][:1] for name in layout.biases}


def _lora_shapes(layout: ExpertLayout, tuning: Tuning) -> dict[str, tuple[int, ...]]:
    return _lora_pairs(layout.shapes, tuning)


def _lora_pairs(linears: Mapping[str, tuple[int, int]], tuning: Tuning) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out_features, in_features) in linears.items():
        if tuning.method == "lora":
            shapes[f"{name}.lora_A"] = (tuning.lora_rank, in_features)
        shapes[f"{name}.lora_B"] = (out_features, tuning.lora_rank)
    return shapes


def lora_factor(
    arrays: Mapping[ParameterKey, NDArray[np.float32]], tuning: Tuning, key: ParameterKey, in_features: int
) -> NDArray[np.float32]:
    """Return the factor ``A`` in force: that of the arrays, or the seeded one where they have none."""
    found = arrays.get(key)
    return frozen_factor(tuning, key, in_features) if found is None else found


def check_arrays(
    arrays: Mapping[ParameterKey, NDArray[np.float32]], layout: ExpertLayout, tuning: Tuning
) -> None:
    """Refuse arrays that do not belong to this model and tuning.

    Raises
    ------
    ValueError
        Naming every unknown expert or name, wrong shape and non-finite value at once.
    """
    of_experts, of_layers = tuned_shapes(layout, tuning), shared_shapes(layout, tuning)
    faults: list[str] = []
    for key, value in arrays.items():
        shapes = of_layers.get(key.layer, {}) if key.is_shared else of_experts
        if key.is_shared and key.name not in shapes:
            faults.append(f"{label(key)}: no such shared part is tuned")
        elif not key.is_shared and not 0 <= key.index < layout.num_experts.get(key.layer, 0):
            faults.append(f"{label(key)}: no such expert")
        elif not key.is_shared and not tuning.tunes(key.layer):
            faults.append(f"{label(key)}: its layer is not tuned")
        elif key.name not in shapes:
            faults.append(f"{label(key)}: not tuned by {tuning.method!r}, which has {', '.join(shapes)}")
        elif value.shape != shapes[key.name]:
            faults.append(f"{label(key)} must be {list(shapes[key.name])}, got {list(value.shape)}")
        elif not np.isfinite(value).all():
            faults.append(f"{label(key)} has values that are not finite")
    if faults:
        raise ValueError(f"arrays do not fit a {layout.family} of this layout: {'; '.join(faults[:8])}")


def label(key: ParameterKey) -> str:
    """Return a parameter's key as messages write it."""
    return f"({key.layer}, {key.index}, {key.name!r})"
