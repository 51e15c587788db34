"""Models kept within a bound of bytes: which stay, which go and when, and what they hold."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tiny_models import VOCABULARY
from client.train import TrainSpec, train
from moe.disk.layout import read_layout
from moe.experts import ExpertId, Tuning
from scenario.model_cache import ModelCache, held_bytes
from scenario.settings.reading import read_config
from scenario.tuned_models import TunedModels, submodel_bytes

NUMBER_BYTES = 4
SPEC = TrainSpec(
    steps=1,
    wall_budget_s=float("inf"),
    batch_size=4,
    learning_rate=0.01,
    optimizer="adamw",
    weight_decay=0.0,
    max_grad_norm=1.0,
)


def row(size: int) -> nn.Module:
    """Return a model of so many numbers that, like most, is part of a reference cycle."""
    model = nn.Linear(size, 1, bias=False)
    model.register_forward_hook(lambda *_: print(model))
    return model


def rows(max_numbers: int) -> ModelCache[int]:
    """Return kept models whose key is their size in numbers, and in bytes four times that."""
    return ModelCache(
        row, expected_bytes=lambda size: NUMBER_BYTES * size, max_bytes=NUMBER_BYTES * max_numbers
    )


def test_what_fits_stays_and_is_not_loaded_again() -> None:
    kept = rows(60)
    models = {size: kept.get(size) for size in (10, 20, 30)}
    assert kept.num_bytes == 60 * NUMBER_BYTES
    assert all(kept.get(size) is model for size, model in models.items())


def test_the_least_recently_used_goes_first_and_no_more_than_must() -> None:
    kept = rows(60)
    for size in (10, 20, 30, 10):
        kept.get(size)
    assert kept.keys == (20, 30, 10)
    kept.get(15)
    assert kept.keys == (30, 10, 15)


def test_the_one_in_use_stays_even_if_it_is_larger_than_the_bound() -> None:
    for bound in (0, 25):
        kept = rows(bound)
        for size in (30, 10, 40):
            assert kept.get(size) is kept.get(size)
            assert kept.keys == (size,)


def test_what_goes_has_gone_before_the_next_one_is_loaded() -> None:
    alive: list[weakref.ref[nn.Module]] = []
    seen: list[int] = []

    def load(size: int) -> nn.Module:
        seen.append(sum(model.weight.numel() for ref in alive if isinstance(model := ref(), nn.Linear)))
        alive.append(weakref.ref(model := row(size)))
        return model

    kept = ModelCache(load, expected_bytes=lambda size: NUMBER_BYTES * size, max_bytes=NUMBER_BYTES * 60)
    gc.disable()  # Python's own collection would hide that nobody asked for one
    try:
        for size in (10, 20, 30, 25, 60, 70, 5):
            kept.get(size)
    finally:
        gc.enable()
    assert seen == [0, 10, 30, 30, 0, 0, 0]


def test_a_model_that_is_larger_than_expected_sends_others_away() -> None:
    kept = ModelCache(row, expected_bytes=lambda _: 0, max_bytes=NUMBER_BYTES * 60)
    for size in (10, 40, 30):
        kept.get(size)
    assert kept.keys == (30,)


def test_memory_that_models_share_counts_once_and_buffers_count() -> None:
    one, other = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
    assert held_bytes([one, other]) == 200 * NUMBER_BYTES
    other.weight = nn.Parameter(one.weight.detach()[2:5])
    assert held_bytes([one, other]) == held_bytes([one]) == 100 * NUMBER_BYTES
    one.register_buffer("table", torch.zeros(7), persistent=False)
    assert held_bytes([one]) == 107 * NUMBER_BYTES


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be >= 0, got -4; 0 keeps one"):
        rows(-1)


@pytest.fixture(name="path")
def tiny_checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny("mixtral")


@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sub_models_size_is_known_before_it_is_loaded(path: Path, method: str, dtype: str) -> None:
    config = read_config({"train.method": method, "model.dtype": dtype, "model.device": "cpu"})
    tuning = Tuning(method=method, lora_rank=3)  # type: ignore[arg-type]
    experts = [ExpertId(0, 1), ExpertId(0, 4), ExpertId(1, 2)]
    model = TunedModels(config, str(path), tuning).submodel(experts)
    computed = sum(b.nbytes for n, b in model.named_buffers() if n not in model.state_dict())
    assert computed < 100, "the rotary frequencies that no file holds"
    assert held_bytes([model]) == submodel_bytes(read_layout(path, dtype), tuning, experts) + computed


def test_a_real_sub_model_that_goes_leaves_nothing_behind(path: Path) -> None:
    config = read_config({"model.kept-mb": 0.0, "model.device": "cpu"})
    models = TunedModels(config, str(path), Tuning(method="full", router_rows=True))
    dropped: list[weakref.ref[Any]] = []
    for _ in range(2):
        dropped.append(weakref.ref(models.profiling()))
        for index in (1, 2):
            model = models.submodel([ExpertId(0, index), ExpertId(1, index)])
            train(model, np.random.default_rng(0).integers(0, VOCABULARY, (4, 12)), SPEC, [1])
            dropped += [weakref.ref(model), *map(weakref.ref, model.parameters())]
            del model
    models.profiling()
    assert len(dropped) > 20
    assert not any(ref() is not None for ref in dropped)


def test_a_trained_model_is_kept_without_its_gradients(path: Path) -> None:
    config = read_config({"model.device": "cpu"})
    model = TunedModels(config, str(path), Tuning()).submodel([ExpertId(0, 1), ExpertId(1, 1)])
    train(model, np.random.default_rng(0).integers(0, VOCABULARY, (4, 12)), SPEC, [1])
    assert all(parameter.grad is None for parameter in model.parameters())
