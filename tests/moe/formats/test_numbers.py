"""The numbers that packed weights mean: the formats' descriptions, and transformers with dequantize=True."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
    PreTrainedModel,
)
from transformers.utils.quantization_config import Mxfp4Config

from benchmarks.quantised import FP8_BLOCK, INDEX, INT4_GROUP, NF4_BLOCK, fp8, quantise
from benchmarks.tiny_models import save_tiny
from moe.disk.layout import auto_class, open_storage
from moe.submodel.load import load_full
from tests.moe.formats.conftest import Quantised, quiet


def from_transformers(folder: Path, dtype: torch.dtype, config: Any) -> PreTrainedModel:
    with quiet():
        builder = auto_class(AutoConfig.from_pretrained(folder))
        model: PreTrainedModel = builder.from_pretrained(folder, dtype=dtype, quantization_config=config)
    # transformers 5.23 leaves what is not quantised in bfloat16 when float32 is asked for, and cannot run it.
    return model.float() if dtype == torch.float32 else model


def differing(ours: PreTrainedModel, theirs: PreTrainedModel) -> list[str]:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    return [
        name
        for name, value in other.items()
        if mine[name].dtype != value.dtype or not torch.equal(mine[name], value)
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe", "mixtral", "kimi_k25"])
def test_block_fp8_has_the_bits_of_transformers(
    quantised: Quantised, family: str, dtype: torch.dtype
) -> None:
    folder = quantised(family, "fp8")
    theirs = from_transformers(folder, dtype, FineGrainedFP8Config(dequantize=True))
    assert differing(load_full(folder, dtype=dtype), theirs) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_mxfp4_has_the_bits_of_transformers(quantised: Quantised, dtype: torch.dtype) -> None:
    folder = quantised("gpt_oss", "mxfp4")
    assert (
        differing(
            load_full(folder, dtype=dtype), from_transformers(folder, dtype, Mxfp4Config(dequantize=True))
        )
        == []
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("family", "form"),
    [("deepseek_v3", "int4"), ("kimi_k25", "int4"), ("mixtral", "int4"), ("deepseek_v3", "fp8-rows")],
)
def test_compressed_tensors_has_the_bits_of_transformers_and_its_package(
    quantised: Quantised, family: str, form: str, dtype: torch.dtype
) -> None:
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors, to compare with")
    folder = quantised(family, form)
    theirs = from_transformers(folder, dtype, CompressedTensorsConfig(dequantize=True))
    assert differing(load_full(folder, dtype=dtype), theirs) == []


# What a format means, written from its description, one number after the other.


def by_fp8(tensors: dict[str, Tensor], name: str) -> Tensor:
    weight, scale = tensors[name].float(), tensors[f"{name}_scale_inv"]
    made = torch.empty_like(weight)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            made[row, column] = weight[row, column] * scale[row // FP8_BLOCK[0], column // FP8_BLOCK[1]]
    return made


def by_int4(tensors: dict[str, Tensor], name: str) -> Tensor:
    packed, scale = tensors[f"{name}_packed"], tensors[f"{name}_scale"]
    made = torch.empty(tensors[f"{name}_shape"].tolist())
    for row in range(made.shape[0]):
        for column in range(made.shape[1]):
            number = (int(packed[row, column // 8]) >> (4 * (column % 8)) & 15) - 8
            # The product is rounded to the scale's type, as the package does.
            made[row, column] = (torch.tensor(float(number)) * scale[row, column // INT4_GROUP]).to(
                scale.dtype
            )
    return made


def by_fp8_rows(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[name].float() * tensors[f"{name}_scale"].float()


def by_nf4(tensors: dict[str, Tensor], name: str) -> Tensor:
    state = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
    flat = torch.empty(tensors[name].numel() * 2)
    for place in range(len(flat)):
        pair = int(tensors[name].flatten()[place // 2])
        number = tensors[f"{name}.quant_map"][pair >> 4 if place % 2 == 0 else pair & 15]
        flat[place] = number * tensors[f"{name}.absmax"][place // NF4_BLOCK]
    # bitsandbytes rounds to the type that the weight had.
    return flat.reshape(state["shape"]).to(getattr(torch, state["dtype"])).float()


@pytest.mark.parametrize(
    ("form", "meaning"), [("fp8", by_fp8), ("int4", by_int4), ("fp8-rows", by_fp8_rows), ("nf4", by_nf4)]
)
def test_an_expert_is_what_its_numbers_and_scales_mean(
    quantised: Quantised, form: str, meaning: Callable[[dict[str, Tensor], str], Tensor]
) -> None:
    folder = quantised("mixtral", form)
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    stem = "model.layers.1.block_sparse_moe.experts.5"
    fused = open_storage(folder, torch.float32).read_expert(1, 5)
    joined = torch.cat([meaning(tensors, f"{stem}.w1.weight"), meaning(tensors, f"{stem}.w3.weight")])
    assert torch.equal(fused["gate_up_proj"][0], joined)
    assert torch.equal(fused["down_proj"][0], meaning(tensors, f"{stem}.w2.weight"))


def test_an_mxfp4_expert_is_its_numbers_times_powers_of_two_turned(quantised: Quantised) -> None:
    folder = quantised("gpt_oss", "mxfp4")
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    name = "model.layers.0.mlp.experts.down_proj"
    blocks, scales = tensors[f"{name}_blocks"][3], tensors[f"{name}_scales"][3]
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    made = torch.empty(blocks.shape[1] * 32, blocks.shape[0])
    for row in range(blocks.shape[0]):
        for place in range(blocks.shape[1] * 32):
            pair = int(blocks[row, place // 32, place % 32 // 2])
            code = pair & 15 if place % 2 == 0 else pair >> 4
            sign = -1.0 if code & 8 else 1.0
            made[place, row] = sign * values[code & 7] * 2.0 ** (int(scales[row, place // 32]) - 127)
    assert torch.equal(open_storage(folder, torch.float32).read_expert(0, 3)["down_proj"][0], made)


def test_blocks_at_the_edge_are_smaller_and_keep_their_own_scale(tmp_path: Path) -> None:
    # DeepSeek-V3 has 576 rows in blocks of 128; here 40 and 24 in blocks of 16. transformers 5.23 refuses
    # the one and, dividing 24 by 2, takes the other for blocks of 12.
    folder = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16, hidden_size=40, intermediate_size=24)
    plain = open_storage(folder).read_expert(0, 2)
    quantise(folder, "fp8")
    for name, value in open_storage(folder, torch.float32).read_expert(0, 2).items():
        parts = plain[name][0].chunk(2) if name == "gate_up_proj" else [plain[name][0]]
        made = [by_fp8(fp8("w", part), "w") for part in parts]
        assert torch.equal(value[0], torch.cat(made)), name


def test_scales_may_be_bytes_of_exponents(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16, intermediate_size=32)
    quantise(folder, "fp8")
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [name for name in tensors if name.endswith("_scale_inv")]:
            exponent = torch.floor(torch.log2(tensors[name]))
            tensors[name] = (exponent + 127).to(torch.uint8)
        save_file(tensors, file, metadata={"format": "pt"})
    name = "model.layers.0.block_sparse_moe.experts.0.w2.weight"
    file = folder / json.loads((folder / INDEX).read_text())["weight_map"][name]
    tensors = load_file(file)
    scale = torch.exp2(tensors[f"{name}_scale_inv"].float() - 127)
    expected = by_fp8({name: tensors[name], f"{name}_scale_inv": scale}, name)
    assert torch.equal(open_storage(folder, torch.float32).read_expert(0, 0)["down_proj"][0], expected)


def test_one_scale_for_a_whole_tensor_is_read(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16, intermediate_size=32)
    quantise(folder, "fp8", weight_block_size=None)
    expected = {}
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [name for name in tensors if name.endswith("_scale_inv")]:
            tensors[name] = tensors[name].max()
            weight = name.removesuffix("_scale_inv")
            expected[weight] = tensors[weight].float() * tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
    found = open_storage(folder, torch.float32).read_expert(1, 1)["down_proj"][0]
    assert torch.equal(found, expected["model.layers.1.block_sparse_moe.experts.1.w2.weight"])


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_have_the_bits_of_bitsandbytes(tmp_path: Path, kind: str, is_nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes, to compare with")
    folder = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16, intermediate_size=64, hidden_size=64)
    expected = {}

    def write(name: str, weight: Tensor) -> dict[str, Tensor]:
        # Blocks of 64: with 128, bitsandbytes 0.50's CPU kernel takes rows of 64 for whole blocks.
        packed, state = functional.quantize_4bit(
            weight, blocksize=64, quant_type=kind, compress_statistics=is_nested
        )
        expected[name] = functional.dequantize_4bit(packed, state)
        return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}

    quantise(folder, "nf4", write=write)
    found = open_storage(folder, "auto").read_expert(1, 1)["down_proj"][0]
    assert torch.equal(found, expected["model.layers.1.block_sparse_moe.experts.1.w2.weight"])
