"""What a device holds while it tunes: the bytes counted beforehand are those of a real step."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.tiny_models import MUST_PASS, VOCABULARY
from client.train import TrainSpec, make_optimizer
from moe.disk.layout import read_layout
from moe.experts import ExpertLayout, Tuning
from moe.objective import language_model_loss
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach
from moe.tuning.memory_budget import kept_expert_bytes, tuned_expert_bytes

Tiny = Callable[[str], Path]
KEEP = {0: (1, 4), 1: (0, 2, 7)}
DTYPES = ["float32", "bfloat16"]
# Families that hold some of their tensors in float32 under a model in half precision.
PARTLY_FLOAT32 = ("deepseek_v4", "ernie4_5_moe", "hunyuan_v1_moe", "inkling_text", "bailing_hybrid")
# Bytes by which the routers of switch grow at their first call: transformers turns their weights, [8, 32] in
# each layer, to float32 then. They are not counted.
GROWS = {"switch_transformers": 2 * 8 * 32 * 2}


def spec(optimizer: str) -> TrainSpec:
    return TrainSpec(
        steps=1,
        wall_budget_s=math.inf,
        batch_size=1,
        learning_rate=1e-3,
        optimizer=optimizer,
        weight_decay=0.01,
        max_grad_norm=1.0,
    )


def weights(model: nn.Module) -> list[Tensor]:
    """Return parameters, and the buffers that files hold.

    Buffers that no file holds are left out: transformers computes them, such as rotary frequencies, a few
    hundred bytes a model.
    """
    return list(model.state_dict(keep_vars=True).values())


def held(tensors: Iterable[Tensor]) -> int:
    """Count bytes, each storage once; Adam's counts of steps, one number each, are left out."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.ndim or tensor.numel() > 1]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def after_a_step(model: nn.Module, optimizer_name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Take one step on tokens that come to every expert; return gradients and optimiser state."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trained, spec(optimizer_name))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (8, 60))
    language_model_loss(model, torch.from_numpy(tokens)).backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(trained), "an expert saw no token: the step would not show what it holds"
    states: list[dict[str, Any]] = list(optimizer.state.values())
    return gradients, [value for state in states for value in state.values() if isinstance(value, Tensor)]


def counted(layout: ExpertLayout, of_one: dict[int, int]) -> int:
    return layout.shared_bytes + sum(len(kept) * of_one[layer] for layer, kept in KEEP.items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("router_rows", [False, True])
@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
def test_the_counted_bytes_are_those_of_a_real_step(
    tiny: Tiny, method: Any, router_rows: bool, dtype: str, optimizer: str
) -> None:
    tuning = Tuning(method=method, lora_rank=3, router_rows=router_rows)
    layout = read_layout(tiny("mixtral"), dtype)
    model = attach(load_submodel(tiny("mixtral"), KEEP, absent="restrict", dtype=dtype), tuning)
    assert held(weights(model)) == counted(layout, kept_expert_bytes(layout, tuning))
    gradients, state = after_a_step(model, optimizer)
    assert held([*weights(model), *gradients, *state]) == counted(
        layout, tuned_expert_bytes(layout, tuning, optimizer)
    )


@pytest.mark.parametrize("method", ["ffa", "full"])
@pytest.mark.parametrize("family", MUST_PASS)
def test_they_are_in_every_family(tiny: Tiny, family: str, method: Any) -> None:
    if family == "dbrx" and method != "full":
        pytest.skip("PEFT has no adapter for it")
    tuning = Tuning(method=method, lora_rank=2)
    layout = read_layout(tiny(family), "bfloat16")
    model = attach(load_submodel(tiny(family), KEEP, absent="restrict", dtype="bfloat16"), tuning)
    gradients, state = after_a_step(model, "adamw")
    assert held([*weights(model), *gradients, *state]) == counted(
        layout, tuned_expert_bytes(layout, tuning, "adamw")
    ) + GROWS.get(family, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PARTLY_FLOAT32)
def test_what_a_family_holds_in_float32_in_any_case_is_counted_so(
    tiny: Tiny, family: str, dtype: str
) -> None:
    layout = read_layout(tiny(family), dtype)
    model = load_submodel(tiny(family), KEEP, dtype=dtype)
    assert held(weights(model)) == counted(layout, dict(layout.expert_bytes))
