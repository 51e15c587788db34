"""The layers below the lowest tuned one: frozen, computed once a block, and the numbers do not show it."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tiny_models import MUST_PASS, VOCABULARY, save_tiny
from client.lower_layers import KeptOutputs, LowerLayers, frozen_layers
from client.train import TrainSpec, train
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, Tuning
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach, get_arrays
from moe.tuning.memory_budget import kept_expert_bytes, tuned_expert_bytes

SPEC = TrainSpec(
    steps=4,
    wall_budget_s=math.inf,
    batch_size=3,
    learning_rate=0.05,
    optimizer="adamw",
    weight_decay=0.0,
    max_grad_norm=1.0,
    micro_batches=2,
)
BLOCKS_NT = np.random.default_rng(0).integers(1, VOCABULARY, (5, 16))
DECODERS = tuple(family for family in MUST_PASS if family != "switch_transformers")
KEEP = {0: (1, 4), 1: (0, 5)}


def tuned_model(path: Path, tuning: Tuning) -> nn.Module:
    return attach(load_submodel(path, KEEP), tuning)


def trained(path: Path, max_bytes: int | None) -> tuple[ExpertArrays, float, KeptOutputs]:
    model = tuned_model(path, Tuning(lora_rank=2, layers=(1,)))
    kept = KeptOutputs(max_bytes or 0)
    lower = None if max_bytes is None else LowerLayers(model, kept, "device")
    result = train(model, BLOCKS_NT, SPEC, [3], lower)
    return get_arrays(model), result.loss, kept


@pytest.mark.parametrize("family", DECODERS)
def test_what_is_kept_changes_no_bit_of_what_is_learned(tiny: Callable[[str], Path], family: str) -> None:
    path = tiny(family)
    one_block = trained(path, 10**9)[2].num_bytes // len(BLOCKS_NT)
    all_kept, some_kept, none_kept = (trained(path, size) for size in (10**9, 2 * one_block, one_block - 1))
    assert some_kept[2].num_bytes == 2 * one_block and none_kept[2].num_bytes == 0 < one_block
    assert any(value.any() for value in all_kept[0].values())
    for other in (some_kept, none_kept):
        assert other[1] == all_kept[1]
        for key, value in all_kept[0].items():
            np.testing.assert_array_equal(other[0][key], value, strict=True)


@pytest.mark.parametrize("family", DECODERS)
def test_a_skipped_layer_gives_what_it_would_have_given(tiny: Callable[[str], Path], family: str) -> None:
    path = tiny(family)
    without, with_kept = trained(path, None), trained(path, 10**9)
    assert with_kept[1] == pytest.approx(without[1], rel=1e-5)
    for key, value in without[0].items():
        np.testing.assert_allclose(with_kept[0][key], value, atol=2e-3, rtol=0)


def test_only_layers_below_the_lowest_tuned_one_are_skipped(tiny: Callable[[str], Path]) -> None:
    path = tiny("olmoe")
    model = tuned_model(path, Tuning(lora_rank=2, layers=(1,)))
    assert [type(layer).__name__ for layer in frozen_layers(model)] == ["OlmoeDecoderLayer"]
    assert frozen_layers(tuned_model(path, Tuning(lora_rank=2))) == ()
    assert frozen_layers(tuned_model(path, Tuning(lora_rank=2, layers=(0,)))) == ()


def test_a_decoder_that_listens_to_an_encoder_is_not_skipped(tmp_path: Path) -> None:
    path = save_tiny(tmp_path, "switch_transformers", num_decoder_layers=2, num_sparse_decoder_layers=2)
    highest = max(read_layout(path).layers)
    model = attach(load_submodel(path, {highest: (0,)}), Tuning(lora_rank=2, layers=(highest,)))
    assert any("decoder.block.1" in name for name, item in model.named_parameters() if item.requires_grad)
    assert frozen_layers(model) == ()


def test_a_layer_that_is_not_tuned_holds_its_frozen_weights_alone(tiny: Callable[[str], Path]) -> None:
    layout = read_layout(tiny("olmoe"))
    for method in ("ffa", "lora", "full"):
        every = Tuning(method=method, lora_rank=2)
        some = Tuning(method=method, lora_rank=2, layers=(1,))
        for count in (kept_expert_bytes, partial(tuned_expert_bytes, optimizer="adamw")):
            assert count(layout, some) == {0: layout.expert_bytes[0], 1: count(layout, every)[1]}
            assert count(layout, every)[0] != layout.expert_bytes[0] or method == "full"


def test_a_frozen_layer_runs_once_for_each_block(tiny: Callable[[str], Path]) -> None:
    model = tuned_model(tiny("olmoe"), Tuning(lora_rank=2, layers=(1,)))
    runs: list[int] = []
    (lowest,) = frozen_layers(model)
    attention = lowest.get_submodule("self_attn")
    attention.register_forward_pre_hook(lambda *_: runs.append(1))
    kept = KeptOutputs(10**9)
    for seed in (1, 2):
        train(model, BLOCKS_NT, SPEC, [seed], LowerLayers(model, kept, "device"))
    assert len(runs) == len(BLOCKS_NT)
    train(model, BLOCKS_NT, SPEC, [1], LowerLayers(model, kept, "another device"))
    assert len(runs) == 2 * len(BLOCKS_NT)


def test_a_model_is_whole_again_after_training(tiny: Callable[[str], Path]) -> None:
    model = tuned_model(tiny("olmoe"), Tuning(lora_rank=2, layers=(1,)))
    tokens = torch.from_numpy(BLOCKS_NT)
    before = model(input_ids=tokens).logits
    train(model, BLOCKS_NT, SPEC, [1], LowerLayers(model, KeptOutputs(10**9), "device"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert torch.equal(model(input_ids=tokens).logits, before)
