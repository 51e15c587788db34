"""Training in float16: gradients too small for the type are kept, and those too large are noticed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.tiny_models import VOCABULARY, save_tiny
from client.train import TrainSpec, train
from moe.experts import Tuning
from moe.half_precision import half_products
from moe.objective import language_model_loss
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach, get_arrays

KEEP = {0: (1, 5), 1: (0, 2, 7)}
SPEC = TrainSpec(
    steps=1,
    wall_budget_s=math.inf,
    batch_size=16,
    learning_rate=1.0,
    optimizer="sgd",
    weight_decay=0.0,
    max_grad_norm=1e6,
)
TUNINGS = [
    Tuning(method="ffa"),
    Tuning(method="lora"),
    Tuning(method="full"),
    Tuning(method="lora", router_rows=True),
]
NAMES = ["ffa", "lora", "full", "rows"]
Array = NDArray[np.float32]
Blocks = NDArray[np.int64]


def scaled(folder: Path, factors: Mapping[str, float]) -> Path:
    """Save a mixtral in float16; tensors with these words in their names are multiplied, up to 60,000."""
    save_tiny(folder, "mixtral", dtype=torch.float16)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for word, factor in factors.items():
            tensors.update(
                {
                    name: (value.float() * factor).clamp(-6e4, 6e4).half()
                    for name, value in tensors.items()
                    if word in name
                }
            )
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def faint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a residual stream of large numbers, as large models have: what flows back to it is small."""
    return scaled(tmp_path_factory.mktemp("faint"), {"weight": 0.1, "embed": 3000.0, "norm": 10.0})


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    return np.random.default_rng(0).integers(0, VOCABULARY, (16, 64))


def flat(model: nn.Module) -> Array:
    arrays = get_arrays(model)
    return np.concatenate([arrays[key].ravel() for key in sorted(arrays)])


def held(path: Path, dtype: torch.dtype, tuning: Tuning) -> nn.Module:
    return attach(load_submodel(path, KEEP, dtype=dtype), tuning)


def moved(path: Path, dtype: torch.dtype, tuning: Tuning, blocks_NT: Blocks, spec: TrainSpec) -> Array:
    """Return what training added to the tuned arrays."""
    model = held(path, dtype, tuning)
    start = flat(model)
    result = train(model, blocks_NT, spec, [1])
    assert result.steps == spec.steps
    return flat(model) - start


def error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("tuning", TUNINGS, ids=NAMES)
def test_small_gradients_reach_the_tuned_arrays(faint: Path, blocks: Blocks, tuning: Tuning) -> None:
    model = held(faint, torch.float16, tuning)
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in tuned} == {torch.float32}
    spec = replace(SPEC, learning_rate=1e3)
    expected = moved(faint, torch.float32, tuning, blocks, spec)
    assert error(moved(faint, torch.float16, tuning, blocks, spec), expected) < 0.005
    # The model is one on which the plain loss does lose them.
    start = flat(model)
    with half_products(model):
        language_model_loss(model, torch.from_numpy(blocks)).backward()
    torch.optim.SGD(tuned, lr=1e3).step()
    assert error(flat(model) - start, expected) > 0.5


@pytest.mark.parametrize("parts", [2, 5, 16])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(faint: Path, blocks: Blocks, parts: int) -> None:
    spec, tuning = replace(SPEC, steps=3, learning_rate=1e3), Tuning()
    expected = moved(faint, torch.float32, tuning, blocks, spec)
    split = moved(faint, torch.float16, tuning, blocks, replace(spec, micro_batches=parts))
    assert error(split, expected) < 0.01


def test_the_norm_is_clipped_after_the_scale_is_gone(faint: Path, blocks: Blocks) -> None:
    for norm in (1e-6, 1.0):  # below and above the gradient's own, about 3e-6
        spec = replace(SPEC, learning_rate=1e3, max_grad_norm=norm)
        step = moved(faint, torch.float16, Tuning(), blocks, spec)
        assert error(step, moved(faint, torch.float32, Tuning(), blocks, spec)) < 0.005
        assert np.linalg.norm(step) <= 1e3 * norm * 1.001


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_overflow_costs_no_step_and_no_block(tmp_path: Path, optimizer: str, parts: int) -> None:
    # A head of large weights sends back more than float16 holds at the first scale, 65536.
    path = scaled(tmp_path, {"lm_head": 30.0})
    blocks_NT = np.random.default_rng(1).integers(0, VOCABULARY, (4, 4))
    spec = replace(SPEC, steps=4, batch_size=2, learning_rate=1e-3, optimizer=optimizer, micro_batches=parts)
    found = []
    for dtype in (torch.float32, torch.float16):
        model = held(path, dtype, Tuning())
        result = train(model, blocks_NT, spec, [1])
        found.append((result, flat(model)))
    (plain, expected), (half, arrays) = found
    assert (half.steps, half.num_examples) == (plain.steps, plain.num_examples) == (4, 4)
    assert half.loss == pytest.approx(plain.loss, rel=0.01)
    assert error(arrays, expected) < 0.05


def test_an_overflow_without_end_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = scaled(tmp_path, {"model.norm": 1e-5, "lm_head": 3e5})
    model = held(path, torch.float16, Tuning())
    start = flat(model)
    says = r'loss \(\d+\.\d+\) at local step 1 is not finite in float16.* set model.dtype to "bfloat16"'
    with pytest.raises(ValueError, match=says):
        train(model, np.array([[3, 5]]), SPEC, [1])
    np.testing.assert_array_equal(flat(model), start)


def test_a_loss_that_is_not_finite_names_the_type_to_choose(tmp_path: Path) -> None:
    model = held(scaled(tmp_path, {"lm_head": 6e4}), torch.float16, Tuning())
    with pytest.raises(ValueError, match=r'became (nan|inf) at local step 1; .* model.dtype to "bfloat16"'):
        train(model, np.array([[3, 5]]), SPEC, [1])


def test_the_same_seed_trains_the_same_bits(faint: Path, blocks: Blocks) -> None:
    spec, tuning = replace(SPEC, steps=3, batch_size=4), Tuning(lora_dropout=0.3)
    first, again = (moved(faint, torch.float16, tuning, blocks, spec) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_take_the_plain_step_to_the_bit(faint: Path, blocks: Blocks, dtype: torch.dtype) -> None:
    spec = replace(SPEC, learning_rate=1e-2, optimizer="adamw", max_grad_norm=1e-6)
    trained, plain = held(faint, dtype, Tuning()), held(faint, dtype, Tuning())
    train(trained, blocks[:1], spec, [1])
    tuned = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=1e-2, weight_decay=0.0)
    with half_products(plain.eval()):
        language_model_loss(plain, torch.from_numpy(blocks[:1])).backward()
    nn.utils.clip_grad_norm_(tuned, 1e-6)
    optimizer.step()
    np.testing.assert_array_equal(flat(trained), flat(plain))
