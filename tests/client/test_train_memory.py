"""The two ways to train in less memory: they change what is held at once, not what is learned."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_layers import GradientCheckpointingLayer

from benchmarks.tiny_models import MUST_PASS, VOCABULARY
from client.train import TrainSpec, set_training_modes, train
from moe.experts import ExpertArrays, Tuning
from moe.objective import language_model_loss
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach, get_arrays

KEEP = {0: (1, 4), 1: (0, 2, 7)}
# transformers says of jetmoe that it cannot.
CHECKPOINTED = [family for family in MUST_PASS if family != "jetmoe"]
SPEC = TrainSpec(
    steps=3,
    wall_budget_s=math.inf,
    batch_size=6,
    learning_rate=0.1,
    optimizer="sgd",
    weight_decay=0.0,
    max_grad_norm=1.0,
)


@pytest.fixture(scope="module", name="blocks_NT")
def token_blocks() -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, VOCABULARY, (7, 11))


def tuned(path: Path, absent: str = "restrict", dropout: float = 0.0) -> nn.Module:
    tuning = Tuning(method="lora", lora_rank=2, lora_dropout=dropout)
    return attach(load_submodel(path, KEEP, absent=absent), tuning)


def after(model: nn.Module, blocks_NT: NDArray[np.int64], spec: TrainSpec) -> ExpertArrays:
    train(model, blocks_NT, spec, [1])
    return get_arrays(model)


@pytest.mark.parametrize("family", MUST_PASS)
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(
    tiny: Callable[[str], Path], blocks_NT: NDArray[np.int64], family: str
) -> None:
    model = tuned(tiny(family))
    start = get_arrays(model)
    whole = after(model, blocks_NT, SPEC)
    for parts in (2, 4, 6, 50):  # parts of 3, then of 1 and 2, of one, and more than there are blocks
        split = after(tuned(tiny(family)), blocks_NT, replace(SPEC, micro_batches=parts))
        for key, value in whole.items():
            moved = np.abs(value - start[key]).max()
            np.testing.assert_allclose(split[key], value, rtol=0, atol=1e-4 * moved + 1e-9)


def test_the_loss_of_a_batch_in_parts_is_that_of_the_whole_batch(
    tiny: Callable[[str], Path], blocks_NT: NDArray[np.int64]
) -> None:
    one, many = (
        train(tuned(tiny("mixtral")), blocks_NT, replace(SPEC, micro_batches=parts), [1]) for parts in (1, 4)
    )
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert (many.steps, many.num_examples) == (one.steps, one.num_examples)


@pytest.mark.parametrize("absent", ["reroute", "restrict", "renormalise", "mask"])
@pytest.mark.parametrize("family", CHECKPOINTED)
def test_checkpointing_learns_the_same_to_the_bit(
    tiny: Callable[[str], Path], blocks_NT: NDArray[np.int64], family: str, absent: str
) -> None:
    # With dropout: the second computation must drop what the first one dropped.
    plain = after(tuned(tiny(family), absent, 0.3), blocks_NT, SPEC)
    again = after(tuned(tiny(family), absent, 0.3), blocks_NT, replace(SPEC, gradient_checkpointing=True))
    assert plain.keys() == again.keys()
    assert all(np.array_equal(value, again[key]) for key, value in plain.items())


@pytest.mark.parametrize("family", CHECKPOINTED)
def test_checkpointing_holds_less_and_wakes_the_layers_alone(
    tiny: Callable[[str], Path], blocks_NT: NDArray[np.int64], family: str
) -> None:
    held = []
    for is_on in (False, True):
        model = tuned(tiny(family))
        set_training_modes(model, gradient_checkpointing=is_on)
        awake = {n: m for n, m in model.named_modules() if m.training and "lora_dropout" not in n}
        assert all(isinstance(module, GradientCheckpointingLayer) for module in awake.values())
        # A vision tower's blocks may be awake too: text never comes to them.
        assert len([name for name in awake if "visual" not in name]) == (2 if is_on else 0)
        held.append(_bytes_held(model, torch.from_numpy(blocks_NT)))
    assert held[1] < 0.5 * held[0], held


def test_a_model_without_layers_to_checkpoint_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"turn it off, and raise train.micro-batches"):
        set_training_modes(tuned(tiny("jetmoe")), gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"Linear has none; turn it off, and raise train.micro-batches"):
        set_training_modes(nn.Linear(2, 2), gradient_checkpointing=True)


def _bytes_held(model: nn.Module, tokens_BT: torch.Tensor) -> int:
    """Count what autograd holds for the backward pass; a tensor held twice counts once."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        language_model_loss(model, tokens_BT)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(num_bytes for where, num_bytes in seen.items() if where not in weights)
