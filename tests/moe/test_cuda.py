"""A GPU computes what the CPU does; skipped where this process sees none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_models import save_tiny
from client.train import TrainSpec, mean_loss, train
from client.tuned import TunedModels
from moe.adapters import MergedModel, attach, get_arrays, initial_arrays
from moe.device import choose_device, to_device
from moe.experts import ExpertId, Tuning
from moe.layout import read_layout
from moe.routing import routing_mass
from moe.submodel import load_streamed, load_submodel
from server.config import read_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

Tiny = Callable[[str], Path]
FAMILIES = ("mixtral", "gpt_oss", "olmoe", "llama4_text", "switch_transformers", "longcat_flash")
KEEP = {0: (5, 1), 1: (0, 2, 7)}
BLOCKS_NT = np.random.default_rng(0).integers(0, 96, (16, 24))
SPEC = TrainSpec(
    steps=6,
    wall_budget_s=float("inf"),
    batch_size=8,
    learning_rate=1e-2,
    optimizer="adamw",
    weight_decay=0.0,
    max_grad_norm=1.0,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("absent", ["reroute", "restrict", "renormalise", "mask"])
def test_a_sub_model_has_the_cpus_loss_and_gradients(tiny: Tiny, family: str, absent: str) -> None:
    found = []
    for device in ("cpu", choose_device("auto")):
        model = to_device(attach(load_submodel(tiny(family), KEEP, absent=absent), Tuning()), device)
        result = train(model, BLOCKS_NT, SPEC, [0])
        arrays = get_arrays(model)
        found.append((result.loss, np.concatenate([arrays[key].ravel() for key in sorted(arrays)])))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-3)
    distance = np.linalg.norm(found[1][1] - found[0][1]) / np.linalg.norm(found[0][1])
    # Adam's steps have the gradient's sign: where that is all but zero, devices may differ.
    assert distance < 0.1


@pytest.mark.parametrize("tuning", [Tuning(method="full"), Tuning(router_rows=True)], ids=["full", "rows"])
def test_training_in_bfloat16_lowers_the_loss(tmp_path: Path, tuning: Tuning) -> None:
    path = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16)
    model = to_device(attach(load_submodel(path, KEEP), tuning), choose_device("auto"))
    before = mean_loss(model, BLOCKS_NT, 8)
    train(model, BLOCKS_NT, SPEC, [0])
    assert mean_loss(model, BLOCKS_NT, 8) < before


@pytest.mark.parametrize("family", FAMILIES)
def test_profiling_and_the_merged_model_agree_with_the_cpu(tiny: Tiny, family: str) -> None:
    path, tuning, tokens_NT = tiny(family), Tuning(), torch.from_numpy(BLOCKS_NT)
    arrays = initial_arrays(path, tuning, read_layout(path).experts)
    rng = np.random.default_rng(1)
    arrays = {key: rng.normal(0, 0.1, value.shape).astype(np.float32) for key, value in arrays.items()}
    masses, losses = [], []
    for device in ("cpu", choose_device("auto")):
        masses.append(routing_mass(to_device(load_streamed(path), device), [tokens_NT]))
        merged = MergedModel(path, tuning, device=device).set(arrays).model
        losses.append(mean_loss(merged, BLOCKS_NT, 8))
    # A token between two experts may fall to the other one.
    np.testing.assert_allclose(masses[1], masses[0], rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_a_model_that_is_no_longer_kept_gives_its_memory_back(tiny: Tiny) -> None:
    models = TunedModels(read_config({"model.kept-mb": 0.0}), str(tiny("mixtral")), Tuning())
    in_use = []
    for index in range(4):
        train(models.submodel([ExpertId(0, index), ExpertId(1, index)]), BLOCKS_NT, SPEC, [0])
        in_use.append(torch.cuda.memory_allocated())
    # The first use of the GPU allocates for good.
    assert len(set(in_use[1:])) == 1, in_use
