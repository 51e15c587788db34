"""One PEFT adapter of the whole model: how its file holds the experts' LoRA factors.

PEFT 0.21 adapts a fused parameter as a whole: ``lora_A`` ``[E*r, in]`` has the expert slowest,
``lora_B`` ``[out, r*E]`` has it fastest. Packing moves numbers and rounds nothing.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from moe.blocks import MoEBlock
from moe.experts import ExpertArrays, ExpertId, ParameterKey, Tuning
from moe.factors import lora_factor
from moe.merge import Change
from moe.quiet import quiet_peft
from moe.storage import Storage

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def adapter_config(storage: Storage, tuning: Tuning) -> LoraConfig:
    """Return PEFT's configuration of an adapter on every expert of a model."""
    targets = [
        f"{block.path}.{name}" for block in storage.blocks.values() for name in block.projections.values()
    ]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,  # type: ignore[arg-type]
        use_rslora=tuning.lora_rslora,
        target_modules=[],
        target_parameters=targets,
    )
    config.base_model_name_or_path = str(storage.checkpoint.folder)
    config.inference_mode = True
    return config


def pack(storage: Storage, config: LoraConfig, arrays: ExpertArrays, tuning: Tuning) -> dict[str, Tensor]:
    """Return the adapter's tensors by PEFT's names; uses ``storage.model`` up.

    Raises
    ------
    ValueError
        If PEFT would save other tensors for this model than these.
    """
    if any(block.num_experts == 1 for block in storage.blocks.values()):
        raise ValueError("PEFT 0.21 cannot adapt a layer that has one expert; use export_merged")
    expected = _wrap(storage, config)
    packed: dict[str, Tensor] = {}
    for name, (block, projection) in _wrapped(storage).items():
        a_factor, b_factor = _pack_block(block, projection, arrays, tuning)
        packed |= {f"{name}.lora_A.weight": a_factor, f"{name}.lora_B.weight": b_factor}
    if {key: value.shape for key, value in packed.items()} != expected:
        raise ValueError(
            "the adapter's tensors are not those PEFT asks for: missing "
            f"{sorted(expected.keys() - packed.keys())[:3]}, unexpected "
            f"{sorted(packed.keys() - expected.keys())[:3]}; use export_merged for this family"
        )
    return _as_in_file(storage, config, packed)


def as_in_model(model: nn.Module, config: PeftConfig, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an adapter file's tensors by the names that PEFT, when it loads them, gives them."""
    return convert_peft_adapter_state_dict_for_transformers(model, config, stored)


def read_changes(storage: Storage, adapter: Path) -> Change:
    """Return the change that an adapter file makes to each expert; uses ``storage.model`` up.

    Raises
    ------
    ValueError
        If there is no adapter, or it is not one on all experts of this model.
    """
    if not (adapter / "adapter_config.json").is_file() or not (adapter / ADAPTER_FILE).is_file():
        raise ValueError(
            f"{adapter} has no adapter_config.json and {ADAPTER_FILE}; give the folder of an adapter"
        )
    config = LoraConfig.from_pretrained(str(adapter))
    assert isinstance(config, LoraConfig)
    expected = _wrap(storage, config)
    stored = as_in_model(storage.model, config, load_file(adapter / ADAPTER_FILE))
    if {key: value.shape for key, value in stored.items()} != expected:
        faults = sorted(expected.keys() ^ stored.keys()) or ["shapes differ"]
        raise ValueError(
            f"adapter {adapter} is not one on all experts of {storage.checkpoint.folder}: {faults[:3]}"
        )
    names = {(block.layer, projection): name for name, (block, projection) in _wrapped(storage).items()}
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)

    def change(expert: ExpertId, projection: str, _in_features: int) -> Tensor | None:
        name = names[expert.layer, projection]
        count = storage.blocks[expert.layer].num_experts
        rows = slice(expert.index * config.r, (expert.index + 1) * config.r)
        b_factor = stored[f"{name}.lora_B.weight"][:, expert.index :: count].float()
        return b_factor @ stored[f"{name}.lora_A.weight"][rows].float() * scale if b_factor.any() else None

    return change


def _as_in_file(storage: Storage, config: LoraConfig, packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by names that PEFT 0.21 loads into their places.

    It takes an adapter's names through the renamings from disk to model. Nearly always the model's names
    come out as they were; where they do not (deepseek_ocr2: ``layers`` becomes ``language_model.layers``),
    the disk's names do what they do for weights.
    """
    if as_in_model(storage.model, config, packed).keys() == packed.keys():
        return packed
    paths = {block.path: storage.disk_path(block.layer) for block in storage.blocks.values()}
    named: dict[str, Tensor] = {}
    for key, value in packed.items():
        path = next(path for path in paths if key.startswith(f"{_PREFIX}{path}."))
        named[_PREFIX + paths[path] + key.removeprefix(_PREFIX + path)] = value
    if as_in_model(storage.model, config, named).keys() != packed.keys():
        raise ValueError(
            "PEFT 0.21 would not load an adapter of this family, under the model's names or the disk's; "
            "use export_merged"
        )
    return named


def _wrap(storage: Storage, config: LoraConfig) -> Mapping[str, torch.Size]:
    """Put PEFT on the empty model; return what PEFT itself would save. Nothing is allocated."""
    # PEFT would put what the model's configuration says in its place, which need not know the folder.
    base, config.base_model_name_or_path = config.base_model_name_or_path, None
    with torch.device("meta"), quiet_peft():
        model = get_peft_model(storage.model, config, low_cpu_mem_usage=True)
    config.base_model_name_or_path = base
    return {key: value.shape for key, value in get_peft_model_state_dict(model).items()}


def _wrapped(storage: Storage) -> dict[str, tuple[MoEBlock, str]]:
    """Return, for every parameter PEFT wraps, its name in the file -> its block and projection."""
    by_path = {block.path: block for block in storage.blocks.values()}
    found: dict[str, tuple[MoEBlock, str]] = {}
    for name, module in storage.model.named_modules():
        if isinstance(module, ParamWrapper):
            block = by_path[name.replace(".base_layer", "")]
            projections = {stored: projection for projection, stored in block.projections.items()}
            found[_PREFIX + name] = (block, projections[module.parameter_name])
    return found


def _pack_block(
    block: MoEBlock, projection: str, arrays: ExpertArrays, tuning: Tuning
) -> tuple[Tensor, Tensor]:
    out_features, in_features = block.shape(projection)
    rank, count = tuning.lora_rank, block.num_experts
    a_factor = np.empty((count * rank, in_features), np.float32)
    b_factor = np.zeros((out_features, rank * count), np.float32)
    for index in range(count):
        key = ParameterKey(block.layer, index, f"{projection}.lora_A")
        a_factor[index * rank : (index + 1) * rank] = lora_factor(arrays, tuning, key, in_features)
        value = arrays.get(ParameterKey(block.layer, index, f"{projection}.lora_B"))
        if value is not None:
            b_factor[:, index::count] = value
    return torch.from_numpy(a_factor), torch.from_numpy(b_factor)
