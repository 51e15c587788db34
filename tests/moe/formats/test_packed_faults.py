"""Quantised files that cannot be read: one sentence each, before anything is built."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe.disk.layout import read_layout
from tests.moe.formats.conftest import Quantised

Tensors = dict[str, Tensor]
DOWN = "model.layers.0.mlp.experts.down_proj"
W1 = "model.layers.0.block_sparse_moe.experts.3.w1.weight"


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_layout(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def changed(folder: Path, out: Path, change: Callable[[Tensors], Any]) -> Path:
    """Return a copy of a checkpoint with its tensors changed, in one file."""
    shutil.copytree(folder, out)
    tensors: Tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
        file.unlink()
    (out / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def said(folder: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] |= changes
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize(
    ("family", "form", "change", "told"),
    [
        (
            "mixtral",
            "fp8",
            lambda t: t.pop(f"{W1}_scale_inv"),
            f"{W1} is F8_E4M3 and has no scales ({W1}_scale_inv)",
        ),
        ("mixtral", "fp8", lambda t: t.pop(W1), f"{W1}_scale_inv is of no FP8 tensor"),
        (
            "mixtral",
            "fp8",
            lambda t: t.update({f"{W1}_scale_inv": torch.ones(3, 2)}),
            f"{W1}_scale_inv must be [2, 2] for {W1} of [32, 32], got [3, 2]",
        ),
        (
            "mixtral",
            "fp8",
            lambda t: t.update({f"{W1}_scale_inv": torch.ones(2, 2, dtype=torch.int32)}),
            f"{W1}_scale_inv is I32, and scales are one of",
        ),
        (
            "gpt_oss",
            "mxfp4",
            lambda t: t.pop(f"{DOWN}_scales"),
            f"{DOWN}_blocks has no scales ({DOWN}_scales)",
        ),
        (
            "gpt_oss",
            "mxfp4",
            lambda t: t.pop(f"{DOWN}_blocks"),
            f"{DOWN}_scales has no numbers",
        ),
        (
            "gpt_oss",
            "mxfp4",
            lambda t: t.update({f"{DOWN}_scales": torch.zeros(8, 64, 2).byte()}),
            f"{DOWN}_scales must be [8, 64, 1], got [8, 64, 2]",
        ),
        ("mixtral", "int4", lambda t: t.pop(f"{W1}_scale"), f"{W1}_packed has no scales ({W1}_scale)"),
        (
            "mixtral",
            "int4",
            lambda t: t.update({f"{W1}_scale": torch.ones(32, 3)}),
            f"{W1}_scale [32, 3] does not fit {W1}_packed [32, 4] by config_groups",
        ),
        (
            "mixtral",
            "int4",
            lambda t: t.update({f"{W1}_zero_point": torch.ones(4, 3).int()}),
            f"{W1}_zero_point: only symmetric, unordered numbers are read here",
        ),
        (
            "mixtral",
            "fp8-rows",
            lambda t: t.update({f"{W1}_scale": torch.ones(31, 1)}),
            f"{W1}_scale must be [1], [32, 1] or one for each block for {W1} of [32, 32], got [31, 1]",
        ),
        ("mixtral", "nf4", lambda t: t.pop(f"{W1}.absmax"), f"{W1} has no scales ({W1}.absmax)"),
        (
            "mixtral",
            "nf4",
            lambda t: t.update({f"{W1}.absmax": torch.ones(5)}),
            f"{W1}.absmax must hold 16 numbers for {W1} of [32, 32], got 5",
        ),
    ],
)
def test_scales_that_are_missing_or_misshapen_are_named(
    quantised: Quantised, tmp_path: Path, family: str, form: str, change: Callable[[Tensors], Any], told: str
) -> None:
    text = refusal(changed(quantised(family, form), tmp_path / "broken", change))
    assert told in text
    assert "does not fit its quantization_config" in text


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        *(
            ("awq", "GPU kernel"),
            ("gptq", "GPU kernel"),
            ("hqq", "transformers 5 reads no saved HQQ"),
            ("nvfp4", "Blackwell"),
        ),
        *(
            ("aqlm", "kernels of aqlm"),
            ("quanto", "optimum-quanto"),
            ("torchao", "torchao"),
            ("bitnet", "three values"),
        ),
        ("something-new", "which is not known here"),
    ],
)
def test_a_format_that_is_not_read_is_refused_by_name_with_what_to_use(
    quantised: Quantised, tmp_path: Path, method: str, reason: str
) -> None:
    text = refusal(said(quantised("mixtral", "fp8"), tmp_path / "other", quant_method=method))
    assert f"is quantised ({method})" in text and reason in text
    assert "use a checkpoint in fp8, mxfp4, compressed-tensors, bitsandbytes 4-bit or gguf, or save a" in text


def test_other_kinds_of_compressed_tensors_are_refused(quantised: Quantised, tmp_path: Path) -> None:
    text = refusal(said(quantised("mixtral", "int4"), tmp_path / "other", format="nvfp4-pack-quantized"))
    assert "its format nvfp4-pack-quantized is not read here, only pack-quantized and float-quantized" in text


def test_three_bit_numbers_are_refused(quantised: Quantised, tmp_path: Path) -> None:
    groups = {"a": {"targets": ["Linear"], "weights": {"num_bits": 3, "type": "int", "strategy": "channel"}}}
    text = refusal(said(quantised("mixtral", "int4"), tmp_path / "other", config_groups=groups))
    assert "of [3] bits, and 4 or 8 bits in I32 are read here" in text


def test_eight_bit_bitsandbytes_is_refused(quantised: Quantised, tmp_path: Path) -> None:
    changes = {"load_in_4bit": False, "load_in_8bit": True}
    text = refusal(said(quantised("mixtral", "nf4"), tmp_path / "other", **changes))
    assert "bitsandbytes 8-bit is not read here, only 4-bit" in text


@pytest.mark.parametrize("block", [[16], [0, 16], "16x16", [16.0, 16]])
def test_a_block_that_is_no_pair_of_sizes_is_refused(
    quantised: Quantised, tmp_path: Path, block: Any
) -> None:
    text = refusal(said(quantised("mixtral", "fp8"), tmp_path / "other", weight_block_size=block))
    assert f"weight_block_size = {block!r} must be two whole numbers >= 1" in text


def test_another_block_than_the_scales_have_is_refused(quantised: Quantised, tmp_path: Path) -> None:
    text = refusal(said(quantised("mixtral", "fp8"), tmp_path / "other", weight_block_size=[8, 8]))
    assert "_scale_inv must be [4, 4] for" in text and "got [2, 2]" in text


def test_quantised_weights_of_another_format_than_they_say_are_named(
    quantised: Quantised, tmp_path: Path
) -> None:
    text = refusal(said(quantised("mixtral", "fp8"), tmp_path / "other", quant_method="mxfp4"))
    assert "no tensor of that kind" in text
