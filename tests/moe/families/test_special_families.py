"""What is true of one special family only; the laws that all share are in ``test_laws.py``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.tiny_models import SPECIAL, save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import export_merged
from moe.families.blocks import find_blocks
from moe.inspect.command import main
from moe.inspect.selftest import check
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.load import load_full, load_submodel
from moe.submodel.routing import routing_mass
from moe.tuning.adapters import attach, initial_arrays

Tiny = Callable[[str], Path]


def test_switch_numbers_the_encoders_layers_first_and_the_decoders_after_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three blocks in the encoder, of which the second has experts; two in the decoder, both.
    path = save_tiny(
        tmp_path, "switch_transformers", num_layers=3, num_decoder_layers=2, num_sparse_decoder_layers=2
    )
    blocks = open_storage(path).blocks
    assert {layer: block.path for layer, block in blocks.items()} == {
        1: "encoder.block.1.layer.1.mlp.experts",
        3: "decoder.block.0.layer.2.mlp.experts",
        4: "decoder.block.1.layer.2.mlp.experts",
    }
    layout = read_layout(path)
    assert layout.layers == (1, 3, 4)
    assert layout.experts[8] == ExpertId(3, 0)
    assert check(path).has_passed
    assert main([str(path)]) == 0
    assert "3 of 5" in capsys.readouterr().out


def test_tied_embeddings_of_an_encoder_decoder_are_one(tmp_path: Path, tokens: torch.Tensor) -> None:
    path = save_tiny(tmp_path, "switch_transformers", tie_word_embeddings=True)
    model = load_submodel(path, {0: range(8), 1: range(8)})
    embedding = model.get_parameter("shared.weight")
    assert model.get_parameter("lm_head.weight") is embedding
    assert model.get_parameter("encoder.embed_tokens.weight") is embedding
    full = load_full(path)
    with torch.no_grad():
        inputs = language_model_inputs(full, tokens)
        torch.testing.assert_close(model(**inputs).logits, full(**inputs).logits, atol=5e-6, rtol=0)


def test_a_token_that_finds_its_expert_full_gets_nothing_and_counts_for_nothing(
    tiny: Tiny, tokens: torch.Tensor
) -> None:
    path = tiny("switch_transformers")
    narrow, wide = load_full(path), load_full(path)
    for block in find_blocks(wide):
        block.router.expert_capacity = 64  # type: ignore[assignment]
    assert (routing_mass(narrow, [tokens]) < routing_mass(wide, [tokens]) - 1e-3).any()
    # A device with every expert but one: the tokens of that one aside, all is as in the full model.
    model = load_submodel(path, {0: range(8), 1: range(8)})
    with torch.no_grad():
        inputs = language_model_inputs(narrow, tokens)
        torch.testing.assert_close(model(**inputs).logits, narrow(**inputs).logits, atol=5e-6, rtol=0)


def test_identity_experts_are_named_and_never_assigned(
    tiny: Tiny, tokens: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny("longcat_flash")
    assert main([str(path)]) == 0
    assert "8, and 2 that give back their input: never assigned" in capsys.readouterr().out
    assert len(read_layout(path).experts) == 16
    with pytest.raises(ValueError, match=r"experts 0..7, not \[8\]"):
        load_submodel(path, {0: (8,)})
    assert routing_mass(load_full(path), [tokens]).shape == (2, 8)


def test_files_without_rows_for_identity_experts_are_the_same_model(
    tiny: Tiny, tokens: torch.Tensor, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny("longcat_flash"), tmp_path / "short"))
    # Of two layers, gate and up of two experts.
    assert _drop(folder, (".experts.8.", ".experts.9.")) == 8
    assert check(folder).has_passed
    tuning = Tuning(lora_rank=2)
    arrays = initial_arrays(folder, tuning, [ExpertId(0, 7)])
    merged = export_merged(
        folder, {key: value + 1 for key, value in arrays.items()}, tuning, tmp_path / "out"
    )
    with torch.no_grad():
        expected = load_full(tiny("longcat_flash"))(input_ids=tokens).logits
        assert torch.equal(load_full(folder)(input_ids=tokens).logits, expected)
        assert not torch.allclose(load_full(merged)(input_ids=tokens).logits, expected, atol=1e-3)
    assert _drop(folder, (".0.mlp.experts.7.gate_proj.",)) == 1
    with pytest.raises(ValueError, match=r"no .*gate_proj.* of experts \[7\]"):
        read_layout(folder)


def _drop(folder: Path, parts: tuple[str, ...]) -> int:
    """Take the tensors with one of these parts in their names out of a checkpoint; return how many."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    dead = {name for name in index["weight_map"] if any(part in name for part in parts)}
    index["weight_map"] = {name: shard for name, shard in index["weight_map"].items() if name not in dead}
    file.write_text(json.dumps(index))
    for shard in folder.glob("*.safetensors"):
        tensors = {name: value for name, value in load_file(shard).items() if name not in dead}
        save_file(tensors, shard, metadata={"format": "pt"})
    return len(dead)


@pytest.mark.parametrize("family", SPECIAL)
@pytest.mark.parametrize("method", ["ffa", "full"])
def test_one_kept_expert_trains_and_one_that_nobody_wants_does_not(
    tiny: Tiny, tokens: torch.Tensor, family: str, method: str
) -> None:
    tuning = Tuning(method=method)  # type: ignore[arg-type]
    trained = attach(load_submodel(tiny(family), {0: (3,), 1: (3,)}), tuning)
    language_model_loss(trained, tokens).backward()
    gradients = [p.grad for p in trained.parameters() if p.requires_grad]
    assert gradients
    assert all(grad is not None and grad.any() and torch.isfinite(grad).all() for grad in gradients)
    # With a router of zeros all tokens make the same choice.
    full = load_full(tiny(family))
    _silence_routers(full)
    lonely = [int(row.argmin()) for row in routing_mass(full, [tokens])]
    model = load_submodel(
        tiny(family), {layer: (index,) for layer, index in enumerate(lonely)}, absent="mask"
    )
    _silence_routers(model)
    tuned = attach(model, tuning)
    language_model_loss(tuned, tokens).backward()
    gradients = [p.grad for p in tuned.parameters() if p.requires_grad]
    assert gradients
    assert all(grad is not None and not grad.any() for grad in gradients)


def _silence_routers(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.zero_()


def test_attention_experts_are_shared_whole_and_frozen(tiny: Tiny) -> None:
    model = load_submodel(tiny("jetmoe"), {0: (1,)})
    stacks = {name: p for name, p in model.named_parameters() if "self_attention.experts" in name}
    assert {p.shape[0] for name, p in stacks.items() if "linear" in name} == {8}
    assert not any(p.requires_grad for p in stacks.values())


def test_dbrx_is_sliced_in_rows(tiny: Tiny) -> None:
    storage = open_storage(tiny("dbrx"))
    full = load_full(tiny("dbrx")).state_dict()
    parts = storage.read_expert(1, 3)
    for name, part in parts.items():
        assert part.shape == (24, 32)
        assert torch.equal(part, full[f"transformer.blocks.1.ffn.experts.{name}"][72:96])
    weights, _ = storage.blocks[1].unfuse(parts)
    assert torch.equal(weights["fc_in"], torch.cat([parts["mlp.w1"], parts["mlp.v1"]]))
    assert torch.equal(weights["fc_out"], parts["mlp.w2"].T)


@pytest.mark.parametrize(
    ("attention", "whole", "theta"),
    [
        # As databricks/dbrx-base has it; transformers 5.23 alone would take 10000.
        ({"clip_qkv": 8, "kv_n_heads": 2, "model_type": "", "rope_theta": 500000}, {}, 500000.0),
        # As transformers 5 writes it: what it computes with is what it says.
        (
            {"kv_n_heads": 2, "rope_theta": 500000},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
            20000.0,
        ),
        # Without it transformers 5.23 cannot build the model.
        ({"clip_qkv": 8, "kv_n_heads": 2}, {}, 10000.0),
    ],
)
def test_dbrx_turns_by_the_base_its_file_says(
    tiny: Tiny, tmp_path: Path, attention: dict[str, object], whole: dict[str, object], theta: float
) -> None:
    folder = tmp_path / "dbrx"
    shutil.copytree(tiny("dbrx"), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**config, "attn_config": attention, **whole}))
    for model in (load_full(folder), load_submodel(folder, {0: (1,)})):
        turned = model.get_buffer("transformer.rotary_emb.inv_freq").numpy()
        np.testing.assert_allclose(turned, theta ** (-np.arange(0, 8, 2) / 8), rtol=1e-6)
