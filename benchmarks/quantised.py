"""Checkpoints quantised as they are published, written from the formats' descriptions in plain torch.

None of it is the reader's code, nor transformers': what is read can be compared with what was written.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
Tensors = dict[str, Tensor]
Write = Callable[[str, Tensor], Tensors]

FP8_BLOCK = (16, 16)
"""Rows and columns that share a scale in the tiny FP8 checkpoints."""
INT4_GROUP = 8
NF4_BLOCK = 64
_MXFP4_BLOCK = 32
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Tell whether publishers quantise a tensor: linear layers, not routers, embeddings or heads."""
    left = ("embed", "lm_head", "norm", ".gate.weight", "router", "conv", "vision")
    return tensor.ndim == 2 and name.endswith("weight") and not any(word in name for word in left)


def fp8(name: str, weight: Tensor, block: tuple[int, int] = FP8_BLOCK) -> Tensors:
    """Return a weight in FP8 with a float32 scale for each block, the last ones smaller."""
    rows, columns = weight.shape
    grid = torch.empty(-(-rows // block[0]), -(-columns // block[1]))
    quantised = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            place = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            grid[i, j] = weight[place].float().abs().max() / 448
            quantised[place] = (weight[place].float() / grid[i, j]).to(torch.float8_e4m3fn)
    return {name: quantised, f"{name}_scale_inv": grid}


def mxfp4(name: str, weight_EIO: Tensor) -> Tensors:
    """Return fused experts ``[E, in, out]`` in MXFP4: blocks along ``in``, two numbers a byte."""
    block_EOGB = weight_EIO.transpose(1, 2).float().unflatten(-1, (-1, _MXFP4_BLOCK))
    exponent = torch.floor(torch.log2(block_EOGB.abs().amax(-1).clamp_min(2.0**-100))) - 2
    scaled = block_EOGB / torch.exp2(exponent).unsqueeze(-1)
    place = _nearest(scaled.abs(), torch.tensor(_E2M1)) | ((scaled < 0).to(torch.uint8) << 3)
    return {
        f"{name}_blocks": place[..., 0::2] | (place[..., 1::2] << 4),
        f"{name}_scales": (exponent + 127).to(torch.uint8),
    }


def _nearest(numbers: Tensor, table: Tensor) -> Tensor:
    """Return the place of the nearest number of an ascending table."""
    return torch.bucketize(numbers, (table[1:] + table[:-1]) / 2).to(torch.uint8)


def int4(name: str, weight: Tensor, group: int = INT4_GROUP) -> Tensors:
    """Return a weight as compressed-tensors packs it: int4, a bfloat16 scale for each group of columns."""
    grouped = weight.float().unflatten(1, (-1, group))
    scale = (grouped.abs().amax(-1) / 7.5).to(torch.bfloat16)
    number = torch.round(grouped / scale.float().unsqueeze(-1)).clamp(-8, 7).flatten(1).to(torch.int64) + 8
    words = number.unflatten(1, (-1, 8))
    packed = sum(words[..., place] << (4 * place) for place in range(8))
    assert isinstance(packed, Tensor)
    stem = name.removesuffix("weight")
    return {
        f"{stem}weight_packed": (packed - ((packed >> 31) << 32)).to(torch.int32),
        f"{stem}weight_scale": scale,
        f"{stem}weight_shape": torch.tensor(weight.shape),
    }


def fp8_rows(name: str, weight: Tensor) -> Tensors:
    """Return a weight as compressed-tensors keeps FP8: a bfloat16 scale for each row."""
    scale = (weight.float().abs().amax(1, keepdim=True) / 448).to(torch.bfloat16)
    return {name: (weight.float() / scale.float()).to(torch.float8_e4m3fn), f"{name}_scale": scale}


def nf4(name: str, weight: Tensor, block: int = NF4_BLOCK) -> Tensors:
    """Return a weight as bitsandbytes saves it: nf4, a float32 scale for each block of numbers."""
    table = torch.tensor(_NF4)
    blocks = weight.float().flatten().unflatten(0, (-1, block))
    scale = blocks.abs().amax(-1)
    place = _nearest(blocks / scale.unsqueeze(-1), table).flatten()
    dtype = str(weight.dtype).removeprefix("torch.")
    state = {"quant_type": "nf4", "blocksize": block, "dtype": dtype, "shape": list(weight.shape)}
    return {
        name: ((place[0::2] << 4) | place[1::2]).unsqueeze(1),
        f"{name}.absmax": scale,
        f"{name}.quant_map": table.clone(),
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }


def _group(weights: Mapping[str, Any], form: str) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": dict(weights)}},
    }


FORMATS: Mapping[str, tuple[Write, dict[str, Any]]] = {
    "fp8": (fp8, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(FP8_BLOCK)}),
    "mxfp4": (mxfp4, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}),
    "int4": (
        int4,
        _group(
            {"num_bits": 4, "type": "int", "strategy": "group", "group_size": INT4_GROUP, "symmetric": True},
            "pack-quantized",
        ),
    ),
    "fp8-rows": (
        fp8_rows,
        _group({"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}, "float-quantized"),
    ),
    "nf4": (
        nf4,
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
        },
    ),
}
"""Format -> how a weight is written, and the ``quantization_config``."""


def quantise(folder: Path, form: str, *, write: Write | None = None, **changes: Any) -> Path:
    """Quantise a sharded checkpoint in place.

    Parameters
    ----------
    folder : Path
        From `benchmarks.tiny_models.save_tiny`.
    form : str
        One of `FORMATS`.
    write : callable, optional
        Writes a weight, in the place of the format's own here.
    **changes
        Of the ``quantization_config``.

    Returns
    -------
    Path
        ``folder``.
    """
    own, said = FORMATS[form]
    write = write or own
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors: Tensors = {}
        for name, tensor in load_file(file).items():
            if form == "mxfp4":
                is_chosen = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
            else:
                is_chosen = is_quantised(name, tensor)
            tensors |= write(name, tensor) if is_chosen else {name: tensor}
        save_file({name: t.contiguous() for name, t in tensors.items()}, file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(tensors, file.name)
    (folder / INDEX).write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**said, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
