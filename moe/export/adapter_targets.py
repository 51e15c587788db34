"""Where the file of a PEFT adapter holds each expert's LoRA factors.

PEFT 0.21 adapts a fused parameter as a whole: ``lora_A`` ``[E*r, in]`` has the expert slowest,
``lora_B`` ``[out, r*E]`` has it fastest. A linear layer of an expert's own is the same with one expert.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor

from moe.disk.storage import Storage
from moe.families.blocks import MoEBlock
from moe.quiet import quiet_peft

PREFIX = "base_model.model."
"""What PEFT puts before the model's own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One layer that PEFT adapts.

    Parameters
    ----------
    name : str
        What PEFT calls the adapted layer in the file.
    scale : float
        Factor of ``B @ A``, by whatever patterns the configuration has.
    """

    name: str
    scale: float

    @property
    def keys(self) -> tuple[str, str]:
        """Names of ``lora_A`` and ``lora_B`` in the file."""
        return f"{self.name}.lora_A.weight", f"{self.name}.lora_B.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Lora):
    """Where one expert's factors of one projection are.

    Parameters
    ----------
    name, scale
        As `Lora`.
    index, count : int
        Which expert of how many that share the layer's factors.
    is_swapped : bool
        Whether PEFT takes the stored weight the other way round, so that its factors are ours transposed.
    """

    name: str
    index: int
    count: int
    is_swapped: bool

    def shapes(self, rank: int, out_features: int, in_features: int) -> dict[str, torch.Size]:
        """Return the shapes that the two tensors must have."""
        first, last = (out_features, in_features) if self.is_swapped else (in_features, out_features)
        sizes = torch.Size([self.count * rank, first]), torch.Size([last, rank * self.count])
        return dict(zip(self.keys, sizes, strict=True))

    def get(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return views of this expert's ``A`` ``[r, in]`` and ``B`` ``[out, r]``."""
        a_file, b_file = (tensors[key] for key in self.keys)
        a_part = a_file.unflatten(0, (self.count, -1))[self.index]
        b_part = b_file[:, self.index :: self.count]
        return (b_part.T, a_part.T) if self.is_swapped else (a_part, b_part)


Places = Mapping[tuple[int, int, str], Place]
"""Layer, expert, projection -> where its factors are."""


def has_adapter(storage: Storage) -> bool:
    """Tell whether PEFT can adapt this family's experts in the full model."""
    return next(iter(storage.blocks.values())).family.adapter != "none"


def adapter_targets(storage: Storage) -> dict[str, Any]:
    """Return what to tell PEFT to adapt: every expert of the model.

    Raises
    ------
    ValueError
        If PEFT cannot adapt them.
    """
    check_adaptable(storage)
    blocks = list(storage.blocks.values())
    if blocks[0].family.adapter == "modules":
        return {"target_modules": "|".join(_module_pattern(block) for block in blocks)}
    names = [block.tensor_name(stored, 0) for block in blocks for stored in _weights(block)]
    return {"target_modules": [], "target_parameters": names}


def check_adaptable(storage: Storage) -> None:
    """Refuse models whose experts PEFT cannot adapt, or adapts wrongly without a word.

    Raises
    ------
    ValueError
        If this is one.
    """
    blocks = storage.blocks.values()
    if not has_adapter(storage):
        raise ValueError(
            f"PEFT 0.21 cannot adapt the experts of family {storage.model.config.model_type!r}, so it has "
            "no adapter: merged weights only; use export_merged"
        )
    if any(block.num_experts == 1 and block.family.adapter != "modules" for block in blocks):
        raise ValueError("PEFT 0.21 cannot adapt a layer that has one expert; use export_merged")


def wrap(storage: Storage, config: LoraConfig) -> tuple[Places, Mapping[str, Lora], Mapping[str, torch.Size]]:
    """Put PEFT on the empty model.

    Returns
    -------
    tuple
        The places of experts; what else is adapted, by the name of its weight in the model; and what PEFT
        itself would save.
    """
    owners = {
        block.tensor_name(stored, index): (block, projection, index)
        for block in storage.blocks.values()
        for projection, names in block.family.projections.items()
        for stored in names
        for index in range(1 if block.is_stacked else block.num_experts)
    }
    # Before PEFT is on: after, the modules look different.
    counts = {name: _count(block, projection) for name, (block, projection, _) in owners.items()}
    # PEFT would put what the model's configuration says in its place, which need not know the folder.
    base, config.base_model_name_or_path = config.base_model_name_or_path, None
    with torch.device("meta"), quiet_peft():
        model = get_peft_model(storage.model, config, low_cpu_mem_usage=True)
    config.base_model_name_or_path = base
    expected = {key: value.shape for key, value in get_peft_model_state_dict(model).items()}
    places: dict[tuple[int, int, str], Place] = {}
    others: dict[str, Lora] = {}
    for name, module in storage.model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        stored = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
        target = f"{name.replace('.base_layer', '')}.{stored}"
        (scale,) = module.scaling.values()
        if target not in owners:
            others[target] = Lora(name=PREFIX + name, scale=scale)
            continue
        block, projection, own = owners[target]
        for index in range(block.num_experts) if block.is_stacked else (own,):
            places[block.layer, index, projection] = Place(
                name=PREFIX + name,
                scale=scale,
                index=index if block.is_stacked else 0,
                count=counts[target],
                is_swapped=_is_swapped(block, projection),
            )
    return places, others, expected


def _weights(block: MoEBlock) -> list[str]:
    return [stored for names in block.family.projections.values() for stored in names]


def _module_pattern(block: MoEBlock) -> str:
    prefix = block.family.expert_prefix.replace(".", r"\.").format(r"\d+")
    layers = "|".join(re.escape(stored.removesuffix(".weight")) for stored in _weights(block))
    return rf"{re.escape(block.holder_path)}\.{prefix}({layers})"


def _count(block: MoEBlock, projection: str) -> int:
    """Return how many experts share the factors; rows that belong to no expert (longcat) count too."""
    return block.family.num_rows(block.family.projections[projection][0]) if block.is_stacked else 1


def _is_swapped(block: MoEBlock, projection: str) -> bool:
    # PEFT asks the module whether its weights are [in, out]; llama4's does not say.
    is_transposed = block.family.projections[projection][0] in block.family.transposed
    return is_transposed != bool(getattr(block.experts, "is_transposed", False))
