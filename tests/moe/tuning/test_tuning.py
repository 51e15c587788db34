"""What may be chosen of the tuning, and that every way out of the sub-model agrees with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, Tuning
from moe.export.adapter_targets import has_adapter
from moe.export.checkpoint import export_adapter, export_merged, merge_adapter
from moe.objective import language_model_inputs
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, initial_arrays, set_arrays

TUNINGS = [
    Tuning(lora_rank=4, lora_alpha=6.0, lora_rslora=True, seed=3),
    Tuning(method="lora", lora_rank=3, lora_alpha=5.0, seed=2),
    Tuning(lora_rank=3, lora_rslora=True, router_rows=True),
    Tuning(method="lora", lora_rank=3, router_rows=True),
]


def random_arrays(path: Path, tuning: Tuning, seed: int) -> ExpertArrays:
    generator = np.random.default_rng(seed)
    start = initial_arrays(path, tuning, read_layout(path).experts)
    return {
        key: value + generator.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()
    }


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**language_model_inputs(model, tokens)).logits


def device_with_all_experts(path: Path, tuning: Tuning) -> torch.nn.Module:
    return attach(load_submodel(path, all_experts(open_storage(path).blocks.values())), tuning).eval()


def test_the_scale_of_the_adapters_worked_by_hand() -> None:
    assert Tuning(lora_rank=16, lora_alpha=8.0).scale == 0.5
    assert Tuning(lora_rank=16, lora_alpha=8.0, lora_rslora=True).scale == 2.0


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"method": "half"}, "method must be one of ffa, .*got 'half'"),
        ({"lora_rank": 0, "lora_dropout": 1.0}, "lora_rank must be >= 1, got 0; lora_dropout must be in"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be > 0 and finite, got nan"),
        ({"method": "full", "lora_rslora": True}, "lora_rslora needs a LoRA method, got 'full'"),
    ],
)
def test_a_tuning_that_means_nothing_is_refused(wrong: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Tuning(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tuning", TUNINGS, ids=lambda tuning: f"{tuning.method}{'-rows' * tuning.router_rows}"
)
def test_a_device_the_merged_model_and_both_exports_compute_the_same(
    checkpoint: Path, tokens: Tensor, tmp_path: Path, tuning: Tuning
) -> None:
    if tuning.router_rows and read_layout(checkpoint).router_width is None:
        return  # refused: tests/moe/tuning/test_router_rows.py
    arrays = random_arrays(checkpoint, tuning, seed=4)
    device = device_with_all_experts(checkpoint, tuning)
    set_arrays(device, arrays)
    expected = logits(MergedModel(checkpoint, tuning).set(arrays).model, tokens)
    assert not torch.allclose(expected, logits(load_full(checkpoint), tokens), atol=1e-2)
    torch.testing.assert_close(logits(device, tokens), expected, atol=1e-5, rtol=0)
    merged = export_merged(checkpoint, arrays, tuning, tmp_path / "merged")
    assert torch.equal(logits(load_full(merged), tokens), expected)
    if not has_adapter(open_storage(checkpoint)):
        return
    export_adapter(checkpoint, arrays, tuning, tmp_path / "adapter")
    stock = PeftModel.from_pretrained(load_full(checkpoint), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(stock, tokens), expected, atol=1e-5, rtol=0)
    by_file = merge_adapter(checkpoint, tmp_path / "adapter", tmp_path / "by-file")
    torch.testing.assert_close(logits(load_full(by_file), tokens), expected, atol=1e-6, rtol=0)
