"""The laws, of quantised bases as of their dequantised copies; and weights held in the file's bits."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from moe.disk.layout import open_storage, read_layout
from moe.disk.shards import Hold
from moe.experts import ExpertArrays, Part, Tuning
from moe.inspect.selftest import check
from moe.standin.fit import fit_stand_ins
from moe.standin.load import load_with_stand_ins
from moe.submodel.load import all_experts, load_full, load_streamed, load_submodel
from moe.submodel.packed_linear import PackedLinear
from moe.submodel.routing import routing_mass
from moe.tuning.adapters import attach, get_arrays
from moe.tuning.merged_model import MergedModel
from scenario.model_cache import held_bytes
from tests.moe.formats.conftest import Quantised


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens).logits
        return found


def tuned(
    folder: Path,
    tokens: torch.Tensor,
    hold: Any,
    dtype: str = "float32",
    parts: tuple[Part, ...] = ("experts",),
) -> tuple[list[float], ExpertArrays]:
    keep = {layer: (0, 3) for layer in read_layout(folder).layers}
    tuning = Tuning(method="lora", parts=parts)
    model: Any = attach(load_submodel(folder, keep, dtype=dtype, hold=hold), tuning).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, get_arrays(model)


def test_slice_and_merge_are_exact_and_keeping_all_is_the_dequantised_model(packed: Path) -> None:
    found = check(packed)
    assert found.is_merge_exact
    assert found.keep_all_error == 0


def test_streamed_experts_give_the_model(packed: Path, tokens: torch.Tensor) -> None:
    expected = logits(load_full(packed, dtype="float32"), tokens)
    assert torch.equal(logits(load_streamed(packed, dtype="float32"), tokens), expected)
    assert torch.equal(logits(load_streamed(packed, dtype="float32", hold="file"), tokens), expected)


def test_a_quantised_model_is_profiled_while_it_is_streamed(packed: Path, tokens: torch.Tensor) -> None:
    mass = routing_mass(load_streamed(packed, hold="file"), [tokens])
    assert (mass == routing_mass(load_full(packed), [tokens])).all()


@pytest.mark.parametrize("hold", get_args(Hold))
def test_a_quantised_model_is_profiled_with_stand_ins(packed: Path, tokens: torch.Tensor, hold: Hold) -> None:
    found = fit_stand_ins(packed, [tokens], base="packed", hold=hold)
    mass = routing_mass(load_with_stand_ins(packed, found, hold=hold), [tokens])
    exact = routing_mass(load_streamed(packed, hold=hold), [tokens])
    assert (mass[0] == exact[0]).all()
    # 34 tokens for 41 regressors, of which a map of rank 16 keeps most; of wider streams it need not.
    width = read_layout(packed).router_width
    assert width is None or width > 32 or abs(mass[1] - exact[1]).sum() < 0.25 * exact[1].sum()


def test_a_submodel_reads_its_own_experts_and_the_shared_part_and_no_other_byte(packed: Path) -> None:
    storage = open_storage(packed)
    names = set(storage.shared_names)
    wanted = sum(storage.checkpoint.raw_bytes(name) for name in names)
    for layer in storage.blocks:
        for index in (1, 6):
            parts = storage.expert_names(layer, index)
            wanted += sum(storage.checkpoint.raw_bytes(name, part) for name, part in parts.items())
            storage.read_expert(layer, index)
    for name in names:
        storage.checkpoint.map(name)
    assert storage.checkpoint.bytes_read == wanted


def test_budgets_count_what_a_submodel_holds_however_it_is_held(packed: Path) -> None:
    counted: dict[str, int] = {}
    tables: dict[str, int] = {}
    for hold in get_args(Hold):
        layout = read_layout(packed, "auto", hold)
        counted[hold] = layout.shared_bytes + sum(2 * layout.expert_bytes[layer] for layer in layout.layers)
        model = load_submodel(packed, {layer: (0, 3) for layer in layout.layers}, hold=hold)
        # Tables that a model computes for itself, such as those of rotary embeddings, are in no file.
        tables[hold] = held_bytes([model]) - counted[hold]
    assert tables["file"] == tables["dequantised"] < 0.1 * counted["dequantised"]
    assert counted["file"] < 0.75 * counted["dequantised"]


def test_held_in_the_files_bits_a_model_learns_the_same_to_the_bit(
    packed: Path, tokens: torch.Tensor
) -> None:
    losses, arrays = tuned(packed, tokens, "dequantised")
    own_losses, own_arrays = tuned(packed, tokens, "file")
    assert own_losses == losses and losses[-1] < losses[0]
    assert all((own_arrays[key] == value).all() for key, value in arrays.items())


def test_attention_in_the_files_bits_learns_the_same_and_is_merged_dequantised(
    packed: Path, tokens: torch.Tensor
) -> None:
    parts: tuple[Part, ...] = ("experts", "attention")
    _, arrays = tuned(packed, tokens, "dequantised", parts=parts)
    _, own_arrays = tuned(packed, tokens, "file", parts=parts)
    assert any(key.is_shared and value.any() for key, value in arrays.items() if "lora_B" in key.name)
    assert all((own_arrays[key] == value).all() for key, value in arrays.items())
    tuning = Tuning(method="lora", parts=parts)
    whole = MergedModel(packed, tuning, "float32").set(arrays)
    streamed = MergedModel(packed, tuning, "float32", streamed=True, hold="file").set(arrays)
    expected = logits(whole.model, tokens)
    assert not torch.equal(expected, logits(load_full(packed, dtype="float32"), tokens))
    torch.testing.assert_close(logits(streamed.model, tokens), expected, atol=1e-5, rtol=1e-5)


def test_packed_bytes_are_those_of_the_file_and_no_change_of_type_touches_them(quantised: Quantised) -> None:
    folder = quantised("mixtral", "fp8")
    model = load_submodel(folder, {0: (2,), 1: ()}, hold="file")
    layer: Any = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert type(layer) is PackedLinear
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    before = layer.weight.clone()
    stored = tensors["model.layers.0.self_attn.q_proj.weight"]
    assert any(torch.equal(b, stored.view(torch.uint8).flatten()) for b in layer.buffers())
    layer.half()
    assert torch.equal(layer.weight, before)


def test_no_expanded_weight_is_kept_for_the_way_back(quantised: Quantised) -> None:
    model = load_submodel(quantised("mixtral", "fp8"), {0: (2,), 1: ()}, hold="file", dtype="float32")
    layer: Any = model.get_submodule("model.layers.0.self_attn.q_proj")
    kept: list[torch.Tensor] = []
    x = torch.randn(3, 32, requires_grad=True)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x).sum().backward()
    assert not any(tensor.shape == layer.weight.shape for tensor in kept)
    assert x.grad is not None and torch.equal(x.grad, torch.ones(3, 32) @ layer.weight)


def test_whole_weights_cannot_be_trained_while_they_are_packed(quantised: Quantised) -> None:
    model = load_submodel(quantised("mixtral", "fp8"), {0: (2,)}, hold="file")
    with pytest.raises(ValueError, match=r"'full' trains the weights themselves.*hold = 'dequantised'"):
        attach(model, Tuning(method="full"))


def test_holding_the_files_bits_of_a_plain_checkpoint_is_refused(tiny: Any) -> None:
    with pytest.raises(
        ValueError, match=r'model\.hold is "file", and checkpoint .* is not quantised; leave it out'
    ):
        read_layout(tiny("mixtral"), "auto", "file")


def test_the_merged_model_in_float32_is_of_the_unrounded_base(
    quantised: Quantised, tokens: torch.Tensor
) -> None:
    # Read in the file's bfloat16, experts would be rounded once they are written back.
    folder = quantised("mixtral", "fp8")
    _, arrays = tuned(folder, tokens, "dequantised")
    merged = MergedModel(folder, Tuning(method="lora"), "float32")
    streamed = MergedModel(folder, Tuning(method="lora"), "float32", streamed=True, hold="file")
    assert torch.equal(logits(merged.set(arrays).model, tokens), logits(streamed.set(arrays).model, tokens))
    assert torch.equal(
        logits(merged.set({}).model, tokens), logits(load_full(folder, dtype="float32"), tokens)
    )


def test_keeping_all_is_the_model_in_the_files_bits_too(packed: Path, tokens: torch.Tensor) -> None:
    keep = all_experts(open_storage(packed).blocks.values())
    model = load_submodel(packed, keep, hold="file")
    assert torch.equal(logits(model, tokens), logits(load_full(packed), tokens))
