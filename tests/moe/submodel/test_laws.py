"""Laws 1, 2, 3, 6 and 10 of docs/design.md, for every family that must pass them."""

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from benchmarks.tiny_models import SPECIAL, save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.disk.shards import Part
from moe.experts import ExpertArrays, ParameterKey, Tuning
from moe.export.adapter_targets import has_adapter
from moe.export.checkpoint import export_adapter, export_merged, load_adapter
from moe.factors import PROJECTIONS
from moe.families.blocks import MoEBlock, find_blocks
from moe.inspect.selftest import check, merges_exactly
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.absent import Absent
from moe.submodel.load import all_experts, build_submodel, fused_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, frozen_factor, get_arrays, initial_arrays

KEEP = {0: (5, 1), 1: (0, 2, 7)}


def random_arrays(path: Path, tuning: Tuning, seed: int) -> ExpertArrays:
    generator = np.random.default_rng(seed)
    start = initial_arrays(path, tuning, read_layout(path).experts)
    return {
        key: value + generator.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()
    }


def parts(block: MoEBlock, index: int) -> dict[str, torch.Tensor]:
    return {name: block.view(name, index) for name in block.parameters}


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(**language_model_inputs(model, tokens)).logits


def assert_same(found: torch.Tensor, expected: torch.Tensor, path: Path) -> None:
    """To the bit; to rounding where a block adds up in another order than transformers' own."""
    is_special = read_layout(path).family in SPECIAL
    torch.testing.assert_close(found, expected, atol=5e-6 if is_special else 0, rtol=0)


def test_slicing_into_clusters_and_merging_back_is_bit_identical(checkpoint: Path) -> None:
    assert merges_exactly(checkpoint, load_full(checkpoint), num_clusters=3)


def test_a_zero_update_merges_to_the_same_files_byte_for_byte(checkpoint: Path, tmp_path: Path) -> None:
    for method in ("ffa", "lora", "full"):
        tuning = Tuning(method=method)
        start = initial_arrays(checkpoint, tuning, read_layout(checkpoint).experts)
        out = export_merged(checkpoint, start, tuning, tmp_path / method)
        for file in checkpoint.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_keeping_all_experts_is_the_model(checkpoint: Path, tokens: torch.Tensor) -> None:
    keep = all_experts(open_storage(checkpoint).blocks.values())
    expected = logits(load_full(checkpoint), tokens)
    for absent in get_args(Absent):
        assert_same(logits(load_submodel(checkpoint, keep, absent=absent), tokens), expected, checkpoint)


def test_the_self_test_passes(checkpoint: Path) -> None:
    result = check(checkpoint)
    assert result.has_passed
    assert result.keep_all_error <= (1e-6 if result.family in SPECIAL else 0.0)
    assert result.family == read_layout(checkpoint).family


def test_a_lazily_read_subset_equals_load_then_slice(checkpoint: Path) -> None:
    model = load_full(checkpoint)
    blocks = {block.layer: block for block in find_blocks(model)}
    expert_tensors = {
        block.tensor_name(stored, index)
        for block in blocks.values()
        for index in range(block.num_experts)
        for stored in block.parameters
    }
    full = model.state_dict()
    sub = load_submodel(checkpoint, KEEP)
    shared = {name: value for name, value in sub.state_dict().items() if ".fc_" not in name}
    assert shared.keys() == full.keys() - expert_tensors
    assert all(torch.equal(value, full[name]) for name, value in shared.items())
    for layer, experts in fused_experts(sub).items():
        assert tuple(experts) == tuple(sorted(KEEP[layer]))
        for index, fused in experts.items():
            assert fused.keys() == set(blocks[layer].parameters)
            for name, value in fused.items():
                assert torch.equal(value, blocks[layer].view(name, index))


def test_the_bytes_read_are_the_bytes_of_the_subset(checkpoint: Path) -> None:
    layout = read_layout(checkpoint)
    storage = open_storage(checkpoint)
    assert storage.checkpoint.bytes_read == 0
    build_submodel(storage, KEEP, absent="restrict")
    kept = sum(len(experts) * layout.expert_bytes[layer] for layer, experts in KEEP.items())
    assert storage.checkpoint.bytes_read == layout.shared_bytes + kept
    unread = sum(spec.num_bytes for spec in storage.checkpoint.tensors.values()) - layout.total_bytes
    # Two layers with two rows each of 48 x 32 numbers for identity experts, which nothing reads.
    assert unread == (2 * 2 * 48 * 32 * 4 if layout.family == "longcat_flash" else 0)


def test_what_lies_in_absent_experts_does_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(checkpoint, folder)
    storage = open_storage(folder)
    for layer, block in storage.blocks.items():
        for index in set(range(block.num_experts)) - set(KEEP[layer]):
            for name, part in storage.expert_names(layer, index).items():
                _spoil(storage.checkpoint.tensors[name].file, name, part)
    spoilt, sound = load_submodel(folder, KEEP).state_dict(), load_submodel(checkpoint, KEEP).state_dict()
    assert all(torch.equal(spoilt[name], value) for name, value in sound.items())


def _spoil(file: Path, name: str, part: Part | None) -> None:
    tensors = load_file(file)
    spoilt = tensors[name]
    (spoilt if part is None else spoilt.unflatten(0, (part.count, -1))[part.index]).fill_(float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_merged_change_is_the_weighted_mean_of_the_devices_products(checkpoint: Path) -> None:
    tuning = Tuning(lora_rank=4, lora_alpha=6.0, seed=3)
    counts = (5, 1, 14)
    devices = [random_arrays(checkpoint, tuning, seed) for seed in range(3)]
    mean: ExpertArrays = {
        key: np.average([device[key] for device in devices], axis=0, weights=counts).astype(np.float32)
        for key in devices[0]
    }
    merged = {b.layer: b for b in find_blocks(MergedModel(checkpoint, tuning).set(mean).model)}
    base = {b.layer: b for b in find_blocks(load_full(checkpoint))}
    for layer, block in base.items():
        for index in range(block.num_experts):
            merged_weights, _ = merged[layer].unfuse(parts(merged[layer], index))
            weights, _ = base[layer].unfuse(parts(base[layer], index))
            for projection in PROJECTIONS:
                a_key = ParameterKey(layer, index, f"{projection}.lora_A")
                a_factor = frozen_factor(tuning, a_key, block.shape(projection)[1]).astype(np.float64)
                b_key = ParameterKey(layer, index, f"{projection}.lora_B")
                products = [device[b_key].astype(np.float64) @ a_factor for device in devices]
                expected = 6.0 / 4 * np.average(products, axis=0, weights=counts)
                change = (merged_weights[projection].double() - weights[projection].double()).numpy()
                assert change.any()
                np.testing.assert_allclose(change, expected, atol=2e-6)


def test_the_merged_model_is_what_a_device_with_all_experts_runs(
    checkpoint: Path, tokens: torch.Tensor
) -> None:
    base = logits(load_full(checkpoint), tokens)
    keep = all_experts(open_storage(checkpoint).blocks.values())
    for method in ("ffa", "lora", "full"):
        tuning = Tuning(method=method)
        model = attach(load_submodel(checkpoint, keep), tuning)
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            language_model_loss(model, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        merged = MergedModel(checkpoint, tuning).set(get_arrays(model)).model
        torch.testing.assert_close(logits(merged, tokens), logits(model, tokens), atol=5e-6, rtol=0)
        assert not torch.allclose(logits(merged, tokens), base, atol=1e-3)


def test_the_exported_adapter_gives_the_servers_logits(
    checkpoint: Path, tokens: torch.Tensor, tmp_path: Path
) -> None:
    tuning = Tuning(lora_rank=3, seed=11)
    arrays = random_arrays(checkpoint, tuning, seed=4)
    expected = logits(MergedModel(checkpoint, tuning).set(arrays).model, tokens)
    merged = export_merged(checkpoint, arrays, tuning, tmp_path / "merged")
    assert torch.equal(logits(load_full(merged), tokens), expected)
    if not has_adapter(open_storage(checkpoint)):
        with pytest.raises(ValueError, match=r"'dbrx'.*merged weights only; use export_merged"):
            export_adapter(checkpoint, arrays, tuning, tmp_path / "adapter")
        return
    export_adapter(checkpoint, arrays, tuning, tmp_path / "adapter")
    stock = PeftModel.from_pretrained(load_full(checkpoint), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(stock, tokens), expected, atol=1e-5, rtol=0)
    ours = load_adapter(checkpoint, tmp_path / "adapter")
    torch.testing.assert_close(logits(ours, tokens), expected, atol=1e-5, rtol=0)


def test_one_file_with_tied_embeddings_is_a_checkpoint_like_any_other(
    tmp_path: Path, tokens: torch.Tensor
) -> None:
    path = save_tiny(tmp_path, "mixtral", max_shard_size="1GB", tie_word_embeddings=True)
    assert [file.name for file in path.glob("*.safetensors")] == ["model.safetensors"]
    assert merges_exactly(path, load_full(path), num_clusters=2)
    model = load_submodel(path, all_experts(open_storage(path).blocks.values()))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(logits(model, tokens), logits(load_full(path), tokens))


def test_an_adapter_that_lacks_a_key_is_an_error(adaptable: Path, tmp_path: Path) -> None:
    tuning = Tuning(lora_rank=2)
    export_adapter(adaptable, random_arrays(adaptable, tuning, seed=5), tuning, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = sorted(tensors)[1]
    save_file({name: value for name, value in tensors.items() if name != lost}, file)
    with pytest.raises(ValueError, match=r"is missing.*export it again"):
        load_adapter(adaptable, tmp_path / "adapter")
