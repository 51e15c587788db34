"""One PEFT adapter of the whole model: every expert's LoRA factors in one file, and out again.

Packing moves numbers and rounds nothing. Where they go is in `moe.export.adapter_targets`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftConfig
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from torch import Tensor, nn

from moe.disk.hub import hub_name
from moe.disk.storage import Storage
from moe.experts import SHARED, ExpertArrays, ExpertId, ParameterKey, Tuning
from moe.export.adapter_targets import PREFIX, Lora, adapter_targets, check_adaptable, wrap
from moe.export.stored_adapter import read_adapter
from moe.factors import PROJECTIONS, lora_factor
from moe.families.shared_linears import shared_linears
from moe.objective import task_type
from moe.tuning.lora_settings import lora_settings
from moe.tuning.merge import Change
from moe.tuning.router_rows import RowChange, changed_weight, router_names, weight_names
from moe.tuning.shared_parts import LinearChange, SharedWeight, shared_weights

_EXPERTS_NAMES = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3"})
"""Of linear layers, that PEFT 0.21 takes for experts' in the families whose experts it knows to be fused."""


def adapter_config(storage: Storage, tuning: Tuning) -> LoraConfig:
    """Return PEFT's configuration of an adapter on all that is tuned of a model: of experts, on every one.

    Raises
    ------
    ValueError
        If PEFT has no adapter for this family.
    """
    targets = adapter_targets(storage) if "experts" in tuning.parts else {"target_modules": []}
    routers = router_names(storage) if tuning.router_rows else {}
    if linears := shared_weights(storage, tuning):
        targets = _with_linears(targets, list(linears))
    if routers:
        targets["target_parameters"] = [*targets.get("target_parameters", ()), *routers.values()]
    # A change of E rows is a product of rank E: the identity times the changes, at scale 1.
    ranks = {name: storage.blocks[layer].num_experts for layer, name in routers.items()}
    alphas = {name: rank**0.5 if tuning.lora_rslora else rank for name, rank in ranks.items()}
    config = LoraConfig(
        task_type=task_type(storage.model),
        **lora_settings(tuning),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        **targets,
    )
    folder = storage.checkpoint.folder
    # By its name on the hub: a folder of this machine's cache says nothing to others.
    config.base_model_name_or_path, config.revision = hub_name(folder) or (str(folder), None)
    config.inference_mode = True
    return config


def _with_linears(targets: Mapping[str, Any], weights: Sequence[str]) -> dict[str, Any]:
    """Return what PEFT is to adapt, and the linear layers of these weights beside it.

    Those whose names it would take for experts' are named as parameters, as fused experts are.
    """
    as_parameters = [weight for weight in weights if weight.split(".")[-2] in _EXPERTS_NAMES]
    modules = [weight.removesuffix(".weight") for weight in weights if weight not in as_parameters]
    experts = targets["target_modules"]
    return {
        # A pattern, where the experts are one: of modules of their own, which PEFT does not rename.
        "target_modules": "|".join([experts, *map(re.escape, modules)]) if experts else modules,
        "target_parameters": [*targets.get("target_parameters", ()), *as_parameters],
    }


def pack(storage: Storage, config: LoraConfig, arrays: ExpertArrays, tuning: Tuning) -> dict[str, Tensor]:
    """Return the adapter's tensors by PEFT's names; uses ``storage.model`` up.

    Raises
    ------
    ValueError
        If PEFT would save other tensors for this model than these.
    """
    routers = router_names(storage) if tuning.router_rows else {}
    # Before PEFT is on: after, the model looks different.
    linears = shared_weights(storage, tuning)
    blanks = {layer: torch.zeros(storage.model.get_parameter(name).shape) for layer, name in routers.items()}
    shapes = {name: block.shape(name) for block in storage.blocks.values() for name in PROJECTIONS}
    places, others, expected = wrap(storage, config)
    packed = {
        key: torch.zeros(size)
        for (_, _, projection), place in places.items()
        for key, size in place.shapes(tuning.lora_rank, *shapes[projection]).items()
    }
    for layer, target in routers.items():
        a_name, b_name = _router_keys(target)
        packed[a_name] = changed_weight(blanks[layer], layer, arrays)
        packed[b_name] = torch.eye(len(blanks[layer]))
    packed |= _shared_factors(linears, others, arrays, tuning)
    if {key: value.shape for key, value in packed.items()} != expected:
        raise ValueError(
            "the adapter's tensors are not those PEFT asks for: missing "
            f"{sorted(expected.keys() - packed.keys())[:3]}, unexpected "
            f"{sorted(packed.keys() - expected.keys())[:3]}; use export_merged for this family"
        )
    for (layer, index, projection), place in places.items():
        a_factor, b_factor = place.get(packed)
        a_key = ParameterKey(layer, index, f"{projection}.lora_A")
        a_value = lora_factor(arrays, tuning, a_key, shapes[projection][1])
        a_factor.copy_(torch.from_numpy(np.ascontiguousarray(a_value)))
        b_value = arrays.get(ParameterKey(layer, index, f"{projection}.lora_B"))
        if b_value is not None:
            b_factor.copy_(torch.from_numpy(np.ascontiguousarray(b_value)))
    return _as_in_file(storage, config, packed, [*routers.values(), *linears])


def _shared_factors(
    linears: Mapping[str, SharedWeight], others: Mapping[str, Lora], arrays: ExpertArrays, tuning: Tuning
) -> dict[str, Tensor]:
    """Return the factors of the tuned shared parts by PEFT's names."""
    packed: dict[str, Tensor] = {}
    for target, (layer, name, shape) in linears.items():
        a_name, b_name = others[target].keys
        a_value = lora_factor(arrays, tuning, ParameterKey(layer, SHARED, f"{name}.lora_A"), shape[1])
        b_value = arrays.get(ParameterKey(layer, SHARED, f"{name}.lora_B"))
        packed[a_name] = torch.from_numpy(np.ascontiguousarray(a_value))
        packed[b_name] = (
            torch.zeros(shape[0], tuning.lora_rank)
            if b_value is None
            else torch.from_numpy(np.ascontiguousarray(b_value))
        )
    return packed


def as_in_model(model: nn.Module, config: PeftConfig, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an adapter file's tensors by the names that PEFT, when it loads them, gives them."""
    return convert_peft_adapter_state_dict_for_transformers(model, config, stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChanges:
    """What an adapter file changes: of each expert, and which rows of routers and shared weights."""

    expert: Change
    rows: tuple[RowChange, ...]
    linears: tuple[LinearChange, ...]


def read_changes(storage: Storage, adapter: Path) -> AdapterChanges:
    """Return the changes that an adapter file makes; uses ``storage.model`` up.

    Raises
    ------
    ValueError
        If there is no adapter, or it is not one on all experts of this model.
    """
    found = read_adapter(adapter)
    check_adaptable(storage)
    routers = set(weight_names(storage).values())
    linears = {f"{one.path}.weight" for one in shared_linears(storage.model, storage.blocks.values())}
    try:
        places, others, expected = wrap(storage, found.config)
        stored = as_in_model(storage.model, found.config, found.tensors)
    except Exception as error:
        # PEFT raises what its settings run into on a model of another kind.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"adapter {adapter} cannot be put on {storage.checkpoint.folder}: PEFT says: {reason}"
        ) from error
    where = f"adapter {adapter} is not one on the experts of {storage.checkpoint.folder}"
    foreign = sorted(others.keys() - routers - linears)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ValueError(
            f"{where}: it changes {', '.join(foreign[:3])}{more}, which are neither experts, attention, "
            "shared experts nor rows of routers; merge it with PEFT (merge_and_unload)"
        )
    faults = [f"{key} is missing" for key in sorted(expected.keys() - stored.keys())]
    faults += [f"{key} is not asked for" for key in sorted(stored.keys() - expected.keys())]
    faults += [
        f"{key} must be {list(size)}, got {list(stored[key].shape)}"
        for key, size in expected.items()
        if key in stored and stored[key].shape != size
    ]
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults[:3])}{' ...' if len(faults) > 3 else ''}")

    def change(expert: ExpertId, projection: str, _in_features: int) -> Tensor | None:
        place = places.get((expert.layer, expert.index, projection))
        if place is None:
            return None  # PEFT may leave layers out
        a_factor, b_factor = place.get(stored)
        return b_factor.float() @ a_factor.float() * place.scale if b_factor.any() else None

    changes = {target: _product(lora, stored) for target, lora in others.items()}
    return AdapterChanges(
        expert=change,
        rows=tuple(
            (target, index, change_H)
            for target in changes.keys() & routers
            for index, change_H in enumerate(changes[target])
            if change_H.any()
        ),
        linears=tuple((target, changes[target]) for target in changes.keys() & linears),
    )


def _product(lora: Lora, stored: Mapping[str, Tensor]) -> Tensor:
    a_factor, b_factor = (stored[key].float() for key in lora.keys)
    return b_factor @ a_factor * lora.scale


def _router_keys(target: str) -> tuple[str, str]:
    """Return what a router's ``lora_A`` and ``lora_B`` are called in the file."""
    name = PREFIX + target.rpartition(".")[0]
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight"


def _as_in_file(
    storage: Storage, config: LoraConfig, packed: dict[str, Tensor], others: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors by names that PEFT 0.21 loads into their places.

    It takes an adapter's names through the renamings from disk to model. Nearly always the model's names
    come out as they were; where they do not (deepseek_ocr2: ``layers`` becomes ``language_model.layers``),
    the disk's names do what they do for weights.
    """
    if as_in_model(storage.model, config, packed).keys() == packed.keys():
        return packed
    paths = {block.path: storage.disk_path(block.layer) for block in storage.blocks.values()}
    paths |= {target.rpartition(".")[0]: storage.stored_name(target).rpartition(".")[0] for target in others}
    named: dict[str, Tensor] = {}
    for key, value in packed.items():
        path = next(path for path in paths if key.startswith(f"{PREFIX}{path}."))
        named[PREFIX + paths[path] + key.removeprefix(PREFIX + path)] = value
    if as_in_model(storage.model, config, named).keys() != packed.keys():
        raise ValueError(
            "PEFT 0.21 would not load an adapter of this family, under the model's names or the disk's; "
            "use export_merged"
        )
    return named
