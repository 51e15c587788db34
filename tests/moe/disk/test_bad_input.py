"""Checkpoints that must be refused before anything is allocated, with the reason and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from moe.disk.layout import read_layout
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import export_adapter, export_merged, fingerprint
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import initial_arrays

Tiny = Callable[[str], Path]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def broken(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a copy of a sound checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny("mixtral"), tmp_path / "broken"))


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_tensors(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / json.loads((folder / INDEX).read_text())["weight_map"][name]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def refused(folder: Path | str, match: str) -> None:
    for opener in (read_layout, load_full, lambda path: load_submodel(path, {0: (1,)})):
        with pytest.raises(ValueError, match=match):
            opener(folder)


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    refused(tmp_path, r"no routed experts found in model_type 'llama': looked for .*gate_up_proj.*dense")


def test_every_missing_shard_is_named(broken: Path) -> None:
    shards = sorted(broken.glob("*.safetensors"))
    shards[1].unlink()
    shards[3].unlink()
    refused(broken, rf"missing 2 of {len(shards)} shards: {shards[1].name}, {shards[3].name}; download")


def test_a_shard_cut_short_is_refused(broken: Path) -> None:
    shard = sorted(broken.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(broken, rf"{shard.name} is cut short: \d+ of \d+ bytes")


def test_a_shard_cut_inside_its_header_is_refused(broken: Path) -> None:
    shard = sorted(broken.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:60])
    refused(broken, rf"{shard.name} is not a safetensors file or is cut short \(60 bytes\)")


def test_an_empty_shard_and_a_shard_of_rubbish_are_both_named(broken: Path) -> None:
    first, second = sorted(broken.glob("*.safetensors"))[:2]
    first.write_bytes(b"")
    second.write_bytes(b"\x05\0\0\0\0\0\0\0hello and more")
    refused(
        broken, rf"(?s){first.name} is not a safetensors file.*{second.name} has a header that is not JSON"
    )


def test_an_index_that_names_a_tensor_no_shard_holds_is_refused(broken: Path) -> None:
    def add(index: dict[str, Any]) -> None:
        index["weight_map"]["model.layers.0.rumour.weight"] = sorted(set(index["weight_map"].values()))[0]

    edit(broken / INDEX, add)
    refused(broken, "lacks tensor 'model.layers.0.rumour.weight', which the index says it holds")


def test_an_index_that_is_not_json_is_refused(broken: Path) -> None:
    (broken / INDEX).write_text("{")
    refused(broken, "index.json that is not JSON")


def test_a_missing_index_is_told_from_missing_weights(broken: Path) -> None:
    (broken / INDEX).unlink()
    refused(
        broken,
        "neither model.safetensors nor model.safetensors.index.json; it has model-0.*whose index is missing",
    )
    for shard in broken.glob("*.safetensors"):
        shard.unlink()
    refused(broken, "neither model.safetensors nor model.safetensors.index.json; download")


def test_a_tensor_missing_from_every_shard_is_named(broken: Path) -> None:
    name = "model.norm.weight"
    edit_tensors(broken, name, lambda tensors: tensors.pop(name))
    edit(broken / INDEX, lambda index: index["weight_map"].pop(name))
    refused(broken, "does not fit its config.json: no tensor for model.norm.weight")


def test_a_missing_expert_is_named(broken: Path) -> None:
    name = next(n for n in json.loads((broken / INDEX).read_text())["weight_map"] if "experts.3.w2" in n)
    edit_tensors(broken, name, lambda tensors: tensors.pop(name))
    edit(broken / INDEX, lambda index: index["weight_map"].pop(name))
    refused(broken, r"of experts \[3\] for model.layers.0.mlp.experts.down_proj")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(broken: Path) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()

    edit_tensors(broken, "model.norm.weight", shorten)
    refused(broken, r"model.norm.weight must be \[32\] by config.json, got \[31\]")


def test_an_expert_of_another_shape_is_named(broken: Path) -> None:
    name = next(n for n in json.loads((broken / INDEX).read_text())["weight_map"] if "experts.3.w1" in n)

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][:-1].clone()

    edit_tensors(broken, name, shorten)
    refused(broken, r"model.layers.0.mlp.experts.gate_up_proj: .*do not go together")


def test_a_configuration_for_more_experts_than_there_are_is_refused(broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(num_local_experts=9))
    refused(broken, r"of experts \[8\]|must be \[9, 32\]")


def test_pickle_weights_are_refused(broken: Path) -> None:
    for file in (*broken.glob("*.safetensors"), broken / INDEX):
        file.unlink()
    torch.save({}, broken / "pytorch_model.bin")
    refused(broken, r"only pickle weights \(pytorch_model.bin\).*convert them to safetensors")


def test_a_model_that_brings_its_own_code_is_refused(broken: Path) -> None:
    edit(
        broken / "config.json",
        lambda config: config.update(model_type="mine", auto_map={"AutoConfig": "mine.MyConfig"}),
    )
    refused(broken, "needs code of its own.*trust-remote-code = true")


def test_an_unknown_family_is_refused(broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(model_type="mixtrall"))
    refused(broken, "model_type 'mixtrall' in config.json, which this transformers does not know")


def test_families_known_not_to_work_are_refused_with_the_reason(broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(model_type="nllb-moe"))
    refused(broken, "'nllb-moe' is refused: its forward pass .* only ever runs experts 0 and 1")


def test_a_checkpoint_that_says_it_is_quantised_and_is_not_is_refused(broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(quantization_config={"quant_method": "mxfp4"}))
    refused(broken, r"quantization_config \(mxfp4\), and no tensor of that kind; take the line out")


def test_paths_that_do_not_exist_and_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere' does not exist; give the folder")
    refused("./nowhere", "does not exist; give the folder")
    refused(tmp_path, "has no config.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file; give the folder")


def test_a_hub_name_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/no-such-model-of-ems-fl", "not a folder here and could not be fetched from the hub")


def test_experts_to_keep_are_checked_all_at_once(tiny: Tiny) -> None:
    with pytest.raises(
        ValueError, match=r"layer 5 has no experts.*experts 0..7, not \[8\].*names an expert twice"
    ):
        load_submodel(tiny("mixtral"), {0: (8,), 1: (2, 2), 5: (0,)})


def test_unknown_rules_and_dtypes_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"absent must be one of reroute, .*mask, got 'drop'"):
        load_submodel(tiny("mixtral"), {0: (1,)}, absent="drop")
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, bfloat16, float16, got 'int3'"):
        load_submodel(tiny("mixtral"), {0: (1,)}, dtype="int3")


def test_an_export_never_overwrites_and_leaves_nothing_half_written(tiny: Tiny, tmp_path: Path) -> None:
    tuning = Tuning(lora_rank=2)
    arrays = initial_arrays(tiny("mixtral"), tuning, [ExpertId(0, 1)])
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note").write_text("mine")
    for export in (export_adapter, export_merged):
        with pytest.raises(ValueError, match="not an empty folder; name another"):
            export(tiny("mixtral"), arrays, tuning, tmp_path / "kept")
        bad = {key: np.full_like(value, np.inf) for key, value in arrays.items()}
        with pytest.raises(ValueError, match="not finite"):
            export(tiny("mixtral"), bad, tuning, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    with pytest.raises(ValueError, match=r"'full' changes whole weights.*use export_merged"):
        export_adapter(tiny("mixtral"), {}, Tuning(method="full"), tmp_path / "new")


def test_the_fingerprint_tells_bases_apart(broken: Path, tiny: Tiny) -> None:
    same = fingerprint(tiny("mixtral"))
    assert fingerprint(broken) == same
    edit_tensors(broken, "model.norm.weight", lambda tensors: tensors["model.norm.weight"].add_(0.001))
    assert fingerprint(broken) != same
