"""Models on another device than the CPU; see tests/test_another_device.py for how this file is run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.tiny_models import FAMILIES as EVERY_FAMILY
from benchmarks.tiny_models import save_tiny
from client.train import TrainSpec, train
from moe.device import to_device
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.objective import mean_loss
from moe.standin.fit import fit_stand_ins
from moe.standin.load import load_with_stand_ins
from moe.submodel.load import load_streamed, load_submodel
from moe.submodel.routing import routing_mass
from moe.tuning.adapters import MergedModel, attach, get_arrays, initial_arrays, set_arrays
from scenario.settings.reading import read_config
from scenario.tuned_models import TunedModels

Tiny = Callable[[str], Path]
# One of every special family, of every shape of fused experts, a vision tower, an encoder-decoder, and every
# sparse attention that chooses tokens by scores of its own. On a real GPU, which is quicker, all.
FAMILIES = (
    *("mixtral", "gpt_oss", "olmoe", "deepseek_v2", "deepseek_v4", "muse_spark", "gemma4", "zaya"),
    *("llama4_text", "switch_transformers", "longcat_flash", "jetmoe", "dbrx"),
    *("deepseek_v32", "glm_moe_dsa", "dots3_note", "hy_v4", "mistral_large4", "axk2"),
)
KEEP = {0: (5, 1), 1: (0, 2, 7)}
BLOCKS_NT = np.random.default_rng(0).integers(0, 96, (16, 24))
# One step of plain descent: what changes is the gradient. Adam's steps have the gradient's sign, which
# rounding may turn.
STEP = TrainSpec(
    steps=1,
    wall_budget_s=float("inf"),
    batch_size=16,
    learning_rate=1.0,
    optimizer="sgd",
    weight_decay=0.0,
    max_grad_norm=1e9,
)
STEPS = replace(STEP, steps=6, batch_size=8, optimizer="adamw", learning_rate=1e-2, max_grad_norm=1.0)


def flat(arrays: ExpertArrays) -> NDArray[np.float64]:
    return np.concatenate([arrays[key].ravel() for key in sorted(arrays)]).astype(np.float64)


def assert_same_step(path: Path, other: torch.device, tuning: Tuning, spec: TrainSpec, absent: str) -> None:
    rows = read_layout(path).num_experts
    keep = {
        layer: [index for index in KEEP[at] if index < rows[layer]] for at, layer in enumerate([*rows][:2])
    }
    found = []
    for device in (torch.device("cpu"), other):
        model = to_device(attach(load_submodel(path, keep, absent=absent), tuning), device)
        assert {parameter.device.type for parameter in model.parameters()} == {device.type}
        start = flat(get_arrays(model))
        loss = train(model, BLOCKS_NT, spec, [0]).loss
        found.append((loss, flat(get_arrays(model)) - start))
    (loss, change), (other_loss, other_change) = found
    assert np.linalg.norm(change) > 0.0
    np.testing.assert_allclose(other_loss, loss, rtol=1e-4)
    assert np.linalg.norm(other_change - change) < 1e-3 * np.linalg.norm(change)


@pytest.mark.parametrize("family", EVERY_FAMILY if torch.cuda.is_available() else FAMILIES)
def test_a_sub_model_has_the_cpus_loss_and_gradient(
    tiny: Tiny, other_device: torch.device, family: str
) -> None:
    assert_same_step(tiny(family), other_device, Tuning(), STEP, "reroute")


@pytest.mark.parametrize("absent", ["restrict", "renormalise", "mask"])
def test_so_it_has_with_every_rule_for_absent_experts(
    tiny: Tiny, other_device: torch.device, absent: str
) -> None:
    assert_same_step(tiny("olmoe"), other_device, Tuning(), STEP, absent)


@pytest.mark.parametrize(
    ("tuning", "spec"),
    [
        (Tuning(method="full"), STEP),
        (Tuning(method="lora", lora_rslora=True), STEP),
        (Tuning(router_rows=True), STEP),
        (Tuning(), replace(STEP, micro_batches=3)),
        (Tuning(), replace(STEP, gradient_checkpointing=True)),
    ],
    ids=["full", "rslora", "rows", "micro-batches", "checkpointing"],
)
def test_so_it_has_with_every_way_of_tuning(
    tiny: Tiny, other_device: torch.device, tuning: Tuning, spec: TrainSpec
) -> None:
    assert_same_step(tiny("olmoe"), other_device, tuning, spec, "renormalise")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tuning", [Tuning(method="full"), Tuning(router_rows=True)], ids=["full", "rows"])
def test_training_in_half_precision_lowers_the_loss(
    tmp_path: Path, other_device: torch.device, dtype: torch.dtype, tuning: Tuning
) -> None:
    path = save_tiny(tmp_path, "mixtral", dtype=dtype)
    model = to_device(attach(load_submodel(path, KEEP), tuning), other_device)
    before = mean_loss(model, BLOCKS_NT, 8)
    train(model, BLOCKS_NT, STEPS, [0])
    assert mean_loss(model, BLOCKS_NT, 8) < before


def test_dropout_draws_on_the_device(tiny: Tiny, other_device: torch.device) -> None:
    model = to_device(attach(load_submodel(tiny("mixtral"), KEEP), Tuning(lora_dropout=0.5)), other_device)
    start = get_arrays(model)
    tuned = []
    for seed in (0, 0, 1):
        set_arrays(model, start)
        train(model, BLOCKS_NT, STEP, [seed])
        tuned.append(flat(get_arrays(model)))
    same, different = np.linalg.norm(tuned[1] - tuned[0]), np.linalg.norm(tuned[2] - tuned[0])
    # Another order of the blocks alone is a matter of rounding.
    assert same < 1e-3 * different and different > 0.1 * np.linalg.norm(tuned[0] - flat(start))


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "longcat_flash", "switch_transformers", "dbrx"])
def test_profiling_and_the_merged_model_agree_with_the_cpu(
    tiny: Tiny, other_device: torch.device, family: str
) -> None:
    path, tuning, tokens_NT = tiny(family), Tuning(), torch.from_numpy(BLOCKS_NT)
    layout = read_layout(path)
    rng = np.random.default_rng(1)
    arrays = {
        key: rng.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in initial_arrays(layout, tuning, layout.experts).items()
    }
    masses, losses = [], []
    for device in (torch.device("cpu"), other_device):
        masses.append(routing_mass(to_device(load_streamed(path), device), [tokens_NT]))
        merged = MergedModel(path, tuning, device=device).set(arrays).model
        losses.append(mean_loss(merged, BLOCKS_NT, 8))
    # A token between two experts may fall to the other one.
    np.testing.assert_allclose(masses[1], masses[0], rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES if torch.cuda.is_available() else ("mixtral", "longcat_flash"))
def test_stand_ins_are_fitted_and_profile_as_on_the_cpu(
    tiny: Tiny, other_device: torch.device, family: str
) -> None:
    path, tokens_NT = tiny(family), torch.from_numpy(BLOCKS_NT)
    masses = []
    for device in (torch.device("cpu"), other_device):
        found = fit_stand_ins(path, [tokens_NT], base=family, rank=4, device=device)
        assert all(t.device.type == "cpu" for s in found.of_layer.values() for t in s.tensors.values())
        masses.append(routing_mass(to_device(load_with_stand_ins(path, found), device), [tokens_NT]))
    np.testing.assert_allclose(masses[1], masses[0], rtol=0.05, atol=0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU what memory is taken")
def test_a_model_that_is_no_longer_kept_gives_its_memory_back(tiny: Tiny) -> None:
    models = TunedModels(read_config({"model.kept-mb": 0.0}), str(tiny("mixtral")), Tuning())
    in_use = []
    for index in range(4):
        train(models.submodel([ExpertId(0, index), ExpertId(1, index)]), BLOCKS_NT, STEPS, [0])
        in_use.append(torch.cuda.memory_allocated())
    # The first use of the GPU allocates for good.
    assert len(set(in_use[1:])) == 1, in_use
