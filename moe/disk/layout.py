"""What a checkpoint's experts look like, from its configuration and headers alone."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from moe.disk.config_fields import as_read, blame, check_fields, check_window
from moe.disk.dequantised import configured_dtype, dequantised
from moe.disk.shards import TORCH_DTYPES, Checkpoint, Hold, open_checkpoint
from moe.disk.storage import Storage
from moe.experts import ExpertLayout
from moe.factors import PROJECTIONS
from moe.families.blocks import REFUSED_FAMILIES, TESTED_FAMILIES, MoEBlock, find_blocks
from moe.families.choice_limits import check_choices
from moe.families.remote_code import trust_code
from moe.families.repairs import repair
from moe.families.router_weight import weight_name
from moe.families.shared_linears import shared_linears
from moe.formats.find import quantization


def read_layout(
    path: str | Path, dtype: torch.dtype | str = "auto", hold: Hold = "dequantised"
) -> ExpertLayout:
    """Return the expert layout of a checkpoint; no weight is read.

    Parameters
    ----------
    path : str or Path
        Folder of a Hugging Face checkpoint, or a hub name.
    dtype : torch.dtype or str
        What the model is to be held in; ``auto`` is the checkpoint's own.
    hold : {"dequantised", "file"}
        How what is packed in the files is to be held.

    Raises
    ------
    ValueError
        If the checkpoint is dense, damaged, of an unknown family, or not there.
    """
    return layout_of(open_storage(path, dtype, hold))


def layout_of(storage: Storage) -> ExpertLayout:
    """Return the expert layout of an opened checkpoint."""
    blocks = list(storage.blocks.values())
    shapes = {projection: blocks[0].shape(projection) for projection in PROJECTIONS}
    odd = [block.path for block in blocks for name, shape in shapes.items() if block.shape(name) != shape]
    if odd:
        raise ValueError(f"experts must have one shape in all layers, {odd[0]} differs from {blocks[0].path}")
    projections, names = blocks[0].family.projections, blocks[0].parameters
    return ExpertLayout(
        family=storage.checkpoint.config["model_type"],
        num_experts={block.layer: block.num_experts for block in blocks},
        top_k=max(block.top_k for block in blocks),
        expert_bytes={block.layer: storage.expert_bytes(block.layer, 0) for block in blocks},
        shared_bytes=storage.shared_bytes,
        shapes=shapes,
        biases=tuple(name for name in PROJECTIONS if f"{projections[name][0]}_bias" in names),
        router_width=_router_width(blocks),
        weight_bytes=storage.model.dtype.itemsize,
        linears=_linears(storage),
    )


def _linears(storage: Storage) -> dict[str, dict[int, dict[str, tuple[int, int]]]]:
    """Return the linear layers that all experts of a layer share; see `ExpertLayout`."""
    found: dict[str, dict[int, dict[str, tuple[int, int]]]] = {}
    for one in shared_linears(storage.model, storage.blocks.values()):
        rows, columns = one.module.get_parameter("weight").shape
        found.setdefault(one.part, {}).setdefault(one.layer, {})[one.name] = (rows, columns)
    return found


def _router_width(blocks: list[MoEBlock]) -> int | None:
    """Return how wide a row of the routers is; None unless all have one row for each expert."""
    names = [weight_name(block.router, block.num_experts) for block in blocks]
    widths = {
        None if name is None else int(block.router.get_parameter(name).shape[1])
        for block, name in zip(blocks, names, strict=True)
    }
    return widths.pop() if len(widths) == 1 else None


def open_storage(path: str | Path, dtype: torch.dtype | str = "auto", hold: Hold = "dequantised") -> Storage:
    """Open a checkpoint beside an empty model of its configuration.

    Parameters
    ----------
    path : str or Path
        Folder or hub name.
    dtype : torch.dtype or str
        Of the empty model's tensors; ``auto`` is the checkpoint's own.
    hold : {"dequantised", "file"}
        As `moe.disk.storage.Storage`.

    Raises
    ------
    ValueError
        As `read_layout`; if the file's bits are to be held and nothing is packed in them.
    """
    checkpoint = open_checkpoint(path)
    held = resolve_dtype(dtype, checkpoint)
    checkpoint = dequantised(checkpoint, held)
    if hold == "file" and not checkpoint.packed:
        raise ValueError(
            f'model.hold is "file", and checkpoint {checkpoint.folder} is not quantised; leave it out '
            '(model.dtype "auto" holds the weights in the type they have in the file)'
        )
    config = read_config(checkpoint)
    where, fields = f"checkpoint {checkpoint.folder}", as_read(checkpoint.config)
    check_window(where, config)
    try:
        model = _empty_model(config, held)
    except Exception as error:
        # Families stumble over values that mean nothing with exceptions of many types.
        raise blame(where, fields, error, lambda others: _empty_model(_config_of(others), held)) from error
    try:
        blocks = find_blocks(model)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:
        raise blame(where, fields, error, lambda others: _blocks_of(others, held)) from error
    check_choices(where, fields, blocks)
    return Storage(checkpoint, model, blocks, hold)


def trust_code_of(path: str | Path) -> bool:
    """Let a checkpoint's own code run in this process, if it needs any; for people who trust it.

    Returns
    -------
    bool
        Whether it runs.

    Raises
    ------
    ValueError
        As `moe.families.remote_code.trust_code`, and `read_layout`.
    """
    checkpoint = open_checkpoint(path)
    return trust_code(checkpoint.folder, checkpoint.config)


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(config, dtype=dtype)
    return model


def _blocks_of(fields: Mapping[str, Any], dtype: torch.dtype) -> tuple[MoEBlock, ...]:
    return find_blocks(_empty_model(_config_of(fields), dtype))


def _config_of(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration of the content of a ``config.json``, as `read_config`."""
    content = deepcopy(dict(fields))
    config: PreTrainedConfig = CONFIG_MAPPING[content["model_type"]].from_dict(content)
    auto_class(config)
    return repair(config, fields)


def read_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Return the configuration of a checkpoint of a family transformers itself implements.

    Raises
    ------
    ValueError
        If it needs code from the checkpoint, names an unknown or refused family, or is no language model.
    """
    where = f"checkpoint {checkpoint.folder}"
    said = checkpoint.config.get("model_type")
    if said is None:
        raise ValueError(f"{where} has no model_type in config.json; give the folder of a model, or add it")
    family = str(said)
    if family in REFUSED_FAMILIES:
        raise ValueError(f"{where}: family {family!r} is refused: {REFUSED_FAMILIES[family]}")
    if family not in CONFIG_MAPPING:
        if "auto_map" in checkpoint.config:
            raise ValueError(
                f"{where} needs code of its own ({checkpoint.config['auto_map']}), which is run with "
                "model.trust-remote-code = true, for people who trust it; or use a family that "
                "transformers implements"
            )
        raise ValueError(
            f"{where} has model_type {family!r} in config.json, which this transformers does not know; "
            f"MoE families that are tested here: {', '.join(sorted(TESTED_FAMILIES))}"
        )
    fields = as_read(checkpoint.config)
    check_fields(where, fields, checkpoint.tensors)
    try:
        config = _config_of(fields)
    except Exception as error:
        # Configuration classes validate with exceptions of many types.
        raise blame(where, fields, error, _config_of) from error
    config.name_or_path = str(checkpoint.folder)
    return config


# Causal first: a few families have several heads, and this one needs nothing but tokens.
_AUTO_CLASSES: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText)


def auto_class(config: PreTrainedConfig) -> Any:
    """Return the class of transformers that builds and loads a model of this configuration.

    Returns
    -------
    type
        ``AutoModelForCausalLM``, else ``AutoModelForSeq2SeqLM``, else ``AutoModelForImageTextToText``.

    Raises
    ------
    ValueError
        If the family is none of the three.
    """
    for candidate in _AUTO_CLASSES:
        if type(config) in candidate._model_mapping:
            return candidate
    raise ValueError(
        f"model_type {config.model_type!r} is no causal, encoder-decoder or vision language model; "
        "choose another model"
    )


def resolve_dtype(dtype: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    """Return the torch dtype meant by ``float32``, ``bfloat16``, ``float16``, ``auto`` or a torch dtype.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return _stored_dtype(checkpoint)
    named: Any = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in named:
        raise ValueError(f"dtype must be one of auto, {', '.join(named)}, got {dtype!r}")
    return named[dtype]


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the floating dtype that most bytes of the checkpoint have, or are dequantised to."""
    if quantization(f"checkpoint {checkpoint.folder}", checkpoint.config) is not None:
        return configured_dtype(checkpoint)
    weight: dict[torch.dtype, int] = {}
    for spec in checkpoint.tensors.values():
        dtype = TORCH_DTYPES[spec.dtype]
        if dtype.is_floating_point:
            weight[dtype] = weight.get(dtype, 0) + spec.num_bytes
    return max(weight, key=lambda dtype: weight[dtype], default=torch.float32)
