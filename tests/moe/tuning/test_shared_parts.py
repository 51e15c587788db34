"""Tuning what all experts share: exact on a device, in the merged model, in the files and under PEFT."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from client.train import TrainSpec, train
from moe.disk.layout import auto_class, open_storage, read_layout
from moe.experts import SHARED, ExpertArrays, ExpertId, ExpertLayout, ParameterKey, Tuning, held_with
from moe.export.checkpoint import export_adapter, export_merged, merge_adapter
from moe.factors import check_arrays, shared_shapes
from moe.families.shared_linears import shared_linears
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import attach, get_arrays, initial_arrays, set_arrays
from moe.tuning.memory_budget import kept_expert_bytes, tuned_shared_bytes
from moe.tuning.merged_model import MergedModel
from moe.tuning.shared_parts import check_shared
from scenario.derive import tuned_parts

Tiny = Callable[..., Path]
KEEP = {0: (1, 5), 1: (0, 2, 7)}
KEPT = [ExpertId(layer, index) for layer, kept in KEEP.items() for index in kept]


def with_all_parts(layout: ExpertLayout, **changes: object) -> Tuning:
    parts = tuned_parts(", ".join(["experts", *layout.linears]))
    return replace(Tuning(lora_rank=2, lora_alpha=4.0, parts=parts), **changes)  # type: ignore[arg-type]


def random_arrays(layout: ExpertLayout, tuning: Tuning, seed: int = 0) -> ExpertArrays:
    generator = np.random.default_rng(seed)
    start = initial_arrays(layout, tuning, layout.experts)
    return {key: generator.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()}


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, model(**language_model_inputs(model, tokens)).logits)


def test_a_device_the_merged_model_the_files_and_peft_agree(
    checkpoint: Path, tokens: Tensor, tmp_path: Path
) -> None:
    # Half of the families each: what the methods do differently does not depend on the family.
    method = "ffa" if len(checkpoint.name) % 2 else "lora"
    layout = read_layout(checkpoint)
    tuning = with_all_parts(layout, method=method)
    assert "attention" in tuning.parts
    arrays = random_arrays(layout, tuning)
    assert {key.layer for key in arrays if key.is_shared} >= set(layout.layers)
    merged = MergedModel(checkpoint, tuning).set(arrays)
    expected, base = logits(merged.model, tokens), logits(load_full(checkpoint), tokens)
    assert float((expected - base).abs().max()) > 0.05
    device = attach(load_submodel(checkpoint, all_experts(open_storage(checkpoint).blocks.values())), tuning)
    set_arrays(device, arrays)
    assert all(np.array_equal(value, arrays[key]) for key, value in get_arrays(device).items())
    torch.testing.assert_close(logits(device, tokens), expected, atol=2e-5, rtol=1e-5)
    files = load_full(export_merged(checkpoint, arrays, tuning, tmp_path / "merged"))
    assert torch.equal(logits(files, tokens), expected)
    if "dbrx" not in checkpoint.name:  # of which PEFT has no adapter
        export_adapter(checkpoint, arrays, tuning, tmp_path / "adapter")
        plain = auto_class(open_storage(checkpoint).model.config).from_pretrained(checkpoint)
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(logits(adapted, tokens), expected, atol=2e-5, rtol=1e-5)
        again = load_full(merge_adapter(checkpoint, tmp_path / "adapter", tmp_path / "again"))
        torch.testing.assert_close(logits(again, tokens), expected, atol=1e-6, rtol=1e-6)
    merged.set({})
    assert torch.equal(logits(merged.model, tokens), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untouched_adapters_change_nothing_and_train_in_float32(
    tiny: Tiny, tokens: Tensor, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = tiny("qwen2_moe", dtype)
    layout = read_layout(folder)
    tuning = with_all_parts(layout)
    plain = attach(load_submodel(folder, KEEP), replace(tuning, parts=("experts",))).eval()
    before = logits(plain, tokens)
    model = attach(load_submodel(folder, KEEP), tuning).eval()
    assert torch.equal(logits(model, tokens), before)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 and ".lora_B." in name for name, p in trained.items())
    assert len(trained) == 2 * len(KEPT) + sum(map(len, shared_shapes(layout, tuning).values()))
    spec = TrainSpec(
        steps=2, wall_budget_s=60.0, batch_size=2, learning_rate=0.01, optimizer="adamw",
        weight_decay=0.0, max_grad_norm=1.0,
    )  # fmt: skip
    train(model, np.random.default_rng(0).integers(0, 90, (4, 20)), spec, [1])
    moved = [key for key, value in get_arrays(model).items() if key.is_shared and value.any()]
    assert {key.name.partition(".")[0] for key in moved} == {"self_attn", "mlp"}
    # From the start of a run nothing on the disk differs.
    start = initial_arrays(folder, tuning, layout.experts)
    out = export_merged(folder, start, tuning, tmp_path / "out")
    assert all((out / f.name).read_bytes() == f.read_bytes() for f in folder.iterdir())


def test_each_part_is_tuned_where_it_is_named_and_layers_bound_it(tiny: Tiny) -> None:
    layout = read_layout(tiny("qwen2_moe"))
    for part, named in (("attention", "self_attn.q_proj"), ("shared-experts", "mlp.shared_expert.up_proj")):
        only = Tuning(lora_rank=2, parts=tuned_parts(part), layers=(1,))
        start = initial_arrays(layout, only, layout.experts)
        assert {(key.layer, key.index) for key in start} == {(1, SHARED)}
        assert f"{named}.lora_B" in {key.name for key in start}
        assert not any("router" in key.name or "_gate" in key.name for key in start)
        model = attach(load_submodel(tiny("qwen2_moe"), KEEP), only)
        assert get_arrays(model).keys() == start.keys()
    with pytest.raises(ValueError, match=r"names shared-experts, and 'mixtral' has no .* experts, attention"):
        shared_shapes(read_layout(tiny("mixtral")), Tuning(parts=("experts", "shared-experts")))


def test_hybrids_are_tuned_in_the_layers_that_have_attention_alone(tiny: Tiny) -> None:
    """In nemotron_h a layer is attention or experts; the layer's number is its own."""
    layout = read_layout(tiny("nemotron_h"))
    assert not layout.linears["attention"].keys() & set(layout.layers)
    assert "mixer.q_proj" in next(iter(layout.linears["attention"].values()))


def test_norms_gates_and_routers_are_no_shared_parts(tiny: Tiny) -> None:
    for family in ("axk2", "qwen4_exp", "deepseek_v32", "qwen2_moe", "jetmoe"):
        storage = open_storage(tiny(family))
        paths = [one.path for one in shared_linears(storage.model, storage.blocks.values())]
        assert paths and not any(
            word in path
            for path in paths
            for word in ("norm.", "router", "indexer", "connection", "expert_gate")
        )


def test_what_two_clusters_share_is_in_both_sub_models_and_their_experts_are_not(tiny: Tiny) -> None:
    layout = read_layout(tiny("mixtral"))
    arrays = random_arrays(layout, with_all_parts(layout))
    one, other = held_with({ExpertId(0, 1)}, arrays), held_with({ExpertId(0, 2), ExpertId(1, 2)}, arrays)
    both = one.keys() & other.keys()
    assert both == {key for key in arrays if key.index == SHARED} and both
    assert {key.expert for key in one.keys() - both} == {ExpertId(0, 1)}


def test_arrays_of_no_shared_part_are_refused_by_name(tiny: Tiny) -> None:
    layout = read_layout(tiny("mixtral"))
    tuning = with_all_parts(layout)
    name = "self_attn.q_proj.lora_B"
    good = np.zeros(shared_shapes(layout, tuning)[0][name], np.float32)
    check_arrays({ParameterKey(0, SHARED, name): good}, layout, tuning)
    for key, value, told in (
        (ParameterKey(0, SHARED, "self_attn.x_proj.lora_B"), good, "no such shared part is tuned"),
        (ParameterKey(7, SHARED, name), good, "no such shared part is tuned"),
        (ParameterKey(0, SHARED, name), good[:-1], r"must be \[\d+, 2\]"),
        (ParameterKey(0, SHARED, name), good + np.inf, "not finite"),
        (ParameterKey(0, -2, name), good, "no such expert"),
    ):
        with pytest.raises(ValueError, match=told):
            check_arrays({key: value}, layout, tuning)
    with pytest.raises(ValueError, match="no such shared part is tuned"):
        check_arrays({ParameterKey(0, SHARED, name): good}, layout, Tuning(lora_rank=2))


def test_a_weight_that_the_files_store_otherwise_is_refused_at_the_door(tiny: Tiny) -> None:
    folder = tiny("minimax_m3_vl")
    storage = open_storage(folder)
    check_shared(storage, Tuning(parts=("experts", "attention")))
    with pytest.raises(
        ValueError, match=r"train.parts = experts, shared-experts: .*gate_up_proj.*leave them"
    ):
        check_shared(storage, Tuning(parts=("experts", "shared-experts")))


@pytest.mark.parametrize("method", ["ffa", "lora"])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_the_counted_bytes_of_adapters_are_those_they_have(tiny: Tiny, method: str, family: str) -> None:
    layout = read_layout(tiny(family))
    tuning = with_all_parts(layout, method=method)
    model = attach(load_submodel(tiny(family), KEEP), tuning)
    added = sum(p.nbytes for name, p in model.named_parameters() if ".lora_" in name)
    of_experts = sum(kept_expert_bytes(layout, tuning)[e.layer] - layout.expert_bytes[e.layer] for e in KEPT)
    assert added - of_experts == tuned_shared_bytes(layout, tuning) > 0
    language_model_loss(model, torch.arange(24).reshape(2, 12)).backward()
    shared = [p for name, p in model.named_parameters() if p.requires_grad and ".experts." not in name]
    moving = sum(p.grad.nbytes for p in shared if p.grad is not None)
    # AdamW has two numbers for each gradient, SGD none.
    assert tuned_shared_bytes(layout, tuning, "sgd") == tuned_shared_bytes(layout, tuning) + moving
    assert tuned_shared_bytes(layout, tuning, "adamw") == tuned_shared_bytes(layout, tuning) + 3 * moving
