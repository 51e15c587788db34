"""Tune the kept experts, and what they share on request, and carry what was learned.

The only file that knows how values are stored.

Everything leaves as ``ExpertArrays`` (float32, by layer, expert and name), whatever the family does.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.disk.layout import layout_of, open_storage, read_layout
from moe.experts import SHARED, ExpertArrays, ExpertId, ExpertLayout, ParameterKey, Tuning
from moe.factors import (
    PROJECTIONS,
    ROUTER_ROW,
    check_arrays,
    frozen_factor,
    label,
    shared_shapes,
    tuned_shapes,
)
from moe.objective import task_type
from moe.quiet import quiet_peft
from moe.submodel.expert_subset import ExpertSubset, expert_subsets
from moe.submodel.packed_linear import PackedLinear
from moe.tuning.lora_settings import lora_settings
from moe.tuning.merged_model import MergedModel
from moe.tuning.router_rows import add_rows, row_parameters
from moe.tuning.shared_parts import adapt_shared, adapted_linears

__all__ = [
    "MergedModel",
    "attach",
    "check_arrays",
    "frozen_factor",
    "get_arrays",
    "initial_arrays",
    "set_arrays",
    "tuned_shapes",
]

# PEFT's name for the one adapter of a model.
_ADAPTER = "default"


def attach(model: PreTrainedModel, tuning: Tuning) -> PeftModel | PreTrainedModel:
    """Make the kept experts of a sub-model trainable, and what ``tuning.parts`` names; nothing else.

    Parameters
    ----------
    model : PreTrainedModel
        From `moe.submodel.load.load_submodel`; modified in place.
    tuning : Tuning
        ``ffa``: LoRA by PEFT with the seeded `frozen_factor` as ``A`` and zero ``B``, only ``B``
        trainable. ``lora``: the same start, both trainable. ``full``: the experts'
        weights and biases, held in float32 from here on and cast to the model's dtype as they are used.

    Returns
    -------
    PeftModel or PreTrainedModel
        What to train: the same model if nothing is wrapped (``full``, or nothing to tune at all).

    Raises
    ------
    ValueError
        If ``full`` is asked of weights that are held packed.
    """
    modules = [module for module in expert_subsets(model) if tuning.tunes(module.layer)]
    if tuning.method == "full" and any(isinstance(layer, PackedLinear) for layer in model.modules()):
        raise ValueError(
            "tuning 'full' trains the weights themselves, which are held in the file's few bits; load the "
            "sub-model with hold = 'dequantised', or tune with LoRA"
        )
    model.requires_grad_(False)
    adapted = _attach_experts(model, modules, tuning)
    # Last: PEFT freezes all that is not its own.
    for module in modules if tuning.router_rows else ():
        add_rows(module)
    return adapted


def _attach_experts(
    model: PreTrainedModel, modules: Sequence[ExpertSubset], tuning: Tuning
) -> PeftModel | PreTrainedModel:
    if tuning.method == "full":
        for module in modules:
            for index in module.kept:
                for projection in PROJECTIONS:
                    _make_masters(getattr(module.expert(index), projection))
        return model
    adapted: PeftModel | PreTrainedModel = model
    if any(module.kept for module in modules):
        config = LoraConfig(
            task_type=task_type(model),
            lora_dropout=tuning.lora_dropout,
            **lora_settings(tuning),
            target_modules=_targets(model, modules),
        )
        # PEFT draws an A that is overwritten below; the caller's random stream is none of its business.
        with torch.random.fork_rng(devices=[]), quiet_peft():
            adapted = get_peft_model(model, config)
    adapt_shared(model, tuning)
    for key, layer in _lora_layers(model).items():
        assert layer.in_features is not None
        factor = frozen_factor(
            tuning, ParameterKey(key.layer, key.index, f"{key.name}.lora_A"), layer.in_features
        )
        with torch.no_grad():
            layer.lora_A[_ADAPTER].get_parameter("weight").copy_(torch.from_numpy(factor))
            layer.lora_B[_ADAPTER].get_parameter("weight").zero_()
        layer.lora_A[_ADAPTER].requires_grad_(tuning.method == "lora")
    return adapted


def _targets(model: PreTrainedModel, modules: Sequence[ExpertSubset]) -> str | list[str]:
    """Return what PEFT is to adapt: the kept experts of all layers, or of these alone.

    Of one name for many, PEFT 0.21 takes the last parts only in families whose experts it knows to be
    fused: that is every layer. So where it is not every layer, each is named in full.
    """
    if len(modules) == len(expert_subsets(model)):
        return r".*\.e\d+\.fc_(in|out)"
    paths = {module: path for path, module in model.named_modules()}
    return [
        f"{paths[module]}.e{index}.{name}"
        for module in modules
        for index in module.kept
        for name in PROJECTIONS
    ]


def set_arrays(model: nn.Module, arrays: ExpertArrays) -> None:
    """Give the tuned parameters of a sub-model these values.

    Raises
    ------
    ValueError
        If a tuned parameter is missing from ``arrays``, one is not tuned here, or a shape differs;
        all faults at once, and nothing is set.
    """
    tuned = _tuned(model)
    faults = [f"{label(key)} is not tuned here" for key in arrays if key not in tuned]
    faults += [f"{label(key)} is missing" for key in tuned if key not in arrays]
    faults += [
        f"{label(key)} must be {list(tuned[key].shape)}, got {list(value.shape)}"
        for key, value in arrays.items()
        if key in tuned and tuned[key].shape != value.shape
    ]
    if faults:
        raise ValueError(
            f"arrays do not fit the sub-model: {'; '.join(faults[:8])}; it must get exactly its kept "
            "experts, with the tuning it was attached with"
        )
    with torch.no_grad():
        for key, parameter in tuned.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(arrays[key])))


def get_arrays(model: nn.Module) -> ExpertArrays:
    """Return copies of the tuned parameters of a sub-model, float32, by layer, expert and projection."""
    return {key: _numpy(parameter) for key, parameter in _tuned(model).items()}


def initial_arrays(
    source: ExpertLayout | str | Path, tuning: Tuning, experts: Iterable[ExpertId]
) -> ExpertArrays:
    """Return the values of a run's start: of those of the given experts that are tuned, and of shared parts.

    Parameters
    ----------
    source : ExpertLayout, str or Path
        The checkpoint; its layout is enough for LoRA.
    tuning : Tuning
        LoRA: zero ``B``, and with ``lora`` the seeded ``A``. ``full``: the checkpoint's own weights, of
        these experts only.
    experts : Iterable[ExpertId]
        Which.

    Raises
    ------
    ValueError
        If ``full`` is asked of a layout, which has no values.
    """
    experts = [expert for expert in experts if tuning.tunes(expert.layer)]
    if tuning.method != "full":
        layout = source if isinstance(source, ExpertLayout) else read_layout(source)
        shapes = tuned_shapes(layout, tuning)
        every = {ParameterKey(e.layer, e.index, name): shapes[name] for e in experts for name in shapes}
        for layer, of_layer in shared_shapes(layout, tuning).items():
            every |= {ParameterKey(layer, SHARED, name): shape for name, shape in of_layer.items()}
        return {
            key: frozen_factor(tuning, key, shape[1])
            if key.name.endswith(".lora_A")
            else np.zeros(shape, np.float32)
            for key, shape in every.items()
        }
    if isinstance(source, ExpertLayout):
        raise ValueError("tuning 'full' starts from the checkpoint's values: give its path, not its layout")
    # Arrays are float32: what is packed becomes no less.
    storage = open_storage(source, torch.float32)
    rows = tuned_shapes(layout_of(storage), tuning).get(ROUTER_ROW)
    arrays: ExpertArrays = {}
    for expert in experts:
        block = storage.blocks[expert.layer]
        weights, biases = block.unfuse(storage.read_expert(expert.layer, expert.index))
        arrays |= {
            ParameterKey(expert.layer, expert.index, f"{name}.{part}"): _numpy(tensor)
            for part, tensors in (("weight", weights), ("bias", biases))
            for name, tensor in tensors.items()
            if tensor is not None
        }
        if rows:
            arrays[ParameterKey(expert.layer, expert.index, ROUTER_ROW)] = np.zeros(rows, np.float32)
    return arrays


def _make_masters(layer: nn.Linear) -> None:
    """Make a layer's weight and bias trainable, in float32: half precision would lose small steps."""
    for name, value in list(layer.named_parameters()):
        layer.register_parameter(name, nn.Parameter(value.detach().float()))


def _tuned(model: nn.Module) -> dict[ParameterKey, nn.Parameter]:
    """Return the tuned parameters by key."""
    tuned: dict[ParameterKey, nn.Parameter] = {}
    num_kept = 0
    for module in expert_subsets(model):
        tuned |= row_parameters(module)
        for index in module.kept:
            num_kept += 1
            for name in PROJECTIONS:
                for part, parameter in getattr(module.expert(index), name).named_parameters():
                    if parameter.requires_grad:
                        # "weight" and "bias" of a plain layer, "lora_B.default.weight" of PEFT's.
                        part = part.removesuffix(f".{_ADAPTER}.weight")
                        tuned[ParameterKey(module.layer, index, f"{name}.{part}")] = parameter
    for layer, name, lora in adapted_linears(model):
        for part in ("lora_A", "lora_B"):
            parameter = getattr(lora, part)[_ADAPTER].weight
            if parameter.requires_grad:
                tuned[ParameterKey(layer, SHARED, f"{name}.{part}")] = parameter
    if num_kept and not tuned:
        raise ValueError("no expert of the sub-model is tuned; call moe.tuning.adapters.attach first")
    return tuned


def _lora_layers(model: nn.Module) -> dict[ParameterKey, LoraLayer]:
    """Return PEFT's layers; ``name`` of the key is the projection."""
    return {
        ParameterKey(module.layer, index, name): layer
        for module in expert_subsets(model)
        for index in module.kept
        for name in PROJECTIONS
        if isinstance(layer := getattr(module.expert(index), name), LoraLayer)
    } | {ParameterKey(layer, SHARED, name): lora for layer, name, lora in adapted_linears(model)}


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
