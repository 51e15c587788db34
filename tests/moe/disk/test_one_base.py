"""Of all the files in a checkpoint's folder, those count that transformers would load, and only those."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import export_adapter, export_merged, fingerprint
from moe.inspect.command import main
from moe.submodel.load import load_full, load_streamed, load_submodel
from moe.tuning.adapters import initial_arrays

Tiny = Callable[..., Path]
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FULL = Tuning(method="full")
EXPERT = [ExpertId(1, 3)]


@pytest.fixture
def sharded(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a copy of a sharded checkpoint, to be added to."""
    return Path(shutil.copytree(tiny("mixtral"), tmp_path / "base"))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def others(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return other weights by the same names."""
    return {name: value + 1 for name, value in tensors.items()}


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content)
    (folder / INDEX).write_text(json.dumps(content))


def stock(folder: Path) -> dict[str, torch.Tensor]:
    """Return what transformers loads, without anything of this project."""
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


def is_read_as_stock(folder: Path, out: Path) -> None:
    """Assert that every way to read a checkpoint gives transformers' weights, and the export them again."""
    want = stock(folder)
    assert all(torch.equal(value, want[name]) for name, value in load_full(folder).state_dict().items())
    weight = want["model.norm.weight"]
    assert torch.equal(load_submodel(folder, {1: (3,)}).get_parameter("model.norm.weight"), weight)
    assert torch.equal(load_streamed(folder).get_parameter("model.norm.weight"), weight)
    down = want["model.layers.1.mlp.experts.down_proj"][3]
    assert torch.equal(open_storage(folder).read_expert(1, 3)["down_proj"][0], down)
    arrays = initial_arrays(folder, FULL, EXPERT)
    arrays = {key: value * 2 for key, value in arrays.items()}
    got = stock(export_merged(folder, arrays, FULL, out))
    down = want["model.layers.1.mlp.experts.down_proj"]
    down[3] *= 2
    want["model.layers.1.mlp.experts.gate_up_proj"][3] *= 2
    assert all(torch.equal(value, want[name]) for name, value in got.items())


def test_a_single_file_beside_an_index_is_the_model_as_transformers_takes_it(
    sharded: Path, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(sharded, tmp_path / "alone", ignore=shutil.ignore_patterns("model*")))
    for folder in (sharded, alone):
        save_file(others(tensors_of(sharded)), folder / "new", metadata={"format": "pt"})
    for folder in (sharded, alone):
        (folder / "new").rename(folder / SINGLE)
    is_read_as_stock(sharded, tmp_path / "merged")
    assert fingerprint(sharded) == fingerprint(alone)


def test_an_index_that_was_left_beside_a_single_file_is_not_asked(sharded: Path, tmp_path: Path) -> None:
    save_file(tensors_of(sharded), sharded / "all", metadata={"format": "pt"})
    for shard in sharded.glob("model-*"):
        shard.unlink()
    (sharded / "all").rename(sharded / SINGLE)
    is_read_as_stock(sharded, tmp_path / "merged")


def test_what_is_exported_carries_one_set_of_weights(tiny: Tiny, sharded: Path, tmp_path: Path) -> None:
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "left.safetensors"):
        shutil.copyfile(next(tiny("mixtral").glob("model-*")), sharded / name)
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf", "consolidated.00.pth"):
        (sharded / name).write_bytes(b"old")
    for name in ("tokenizer.json", "tokenizer.model", "LICENSE", "chat_template.jinja"):
        (sharded / name).write_text("{}")
    (sharded / ".gitattributes").write_text("")
    (sharded / "original").mkdir()
    out = export_merged(sharded, initial_arrays(sharded, FULL, EXPERT), FULL, tmp_path / "of-shards")
    weights = {file.name for file in tiny("mixtral").iterdir()}
    kept = {*weights, "tokenizer.json", "tokenizer.model", "LICENSE", "chat_template.jinja"}
    assert {file.name for file in out.iterdir()} == kept

    save_file(tensors_of(tiny("mixtral")), sharded / SINGLE, metadata={"format": "pt"})
    out = export_merged(sharded, initial_arrays(sharded, FULL, EXPERT), FULL, tmp_path / "of-single")
    kept = {name for name in kept if not name.startswith("model")}
    assert {file.name for file in out.iterdir()} == {*kept, SINGLE}


def test_shards_in_a_folder_of_their_own_are_read_and_exported(sharded: Path, tmp_path: Path) -> None:
    (sharded / "parts").mkdir()
    for shard in sharded.glob("model-*"):
        shard.rename(sharded / "parts" / shard.name)

    def move(index: dict[str, Any]) -> None:
        index["weight_map"] = {name: f"parts/{file}" for name, file in index["weight_map"].items()}

    edit_index(sharded, move)
    is_read_as_stock(sharded, tmp_path / "merged")


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "model.bin", 5, None])
def test_an_index_reaches_for_safetensors_files_of_its_folder_only(sharded: Path, name: object) -> None:
    save_file(tensors_of(sharded), sharded.parent / SINGLE, metadata={"format": "pt"})

    def reach(index: dict[str, Any]) -> None:
        index["weight_map"] = dict.fromkeys(index["weight_map"], name)

    edit_index(sharded, reach)
    with pytest.raises(ValueError, match="which is no safetensors file in the folder"):
        read_layout(sharded)


def test_a_tensor_in_two_shards_is_the_later_one_and_the_index_must_know(sharded: Path) -> None:
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    name, first = "model.norm.weight", sharded / min(places.values())
    last = sharded / places[name]
    assert first.name < last.name
    value = load_file(last)[name]
    save_file({**load_file(first), name: value + 1}, first, metadata={"format": "pt"})
    assert torch.equal(stock(sharded)[name], value)
    assert torch.equal(open_storage(sharded).checkpoint.map(name), value)
    edit_index(sharded, lambda index: index["weight_map"].update({name: first.name}))
    with pytest.raises(ValueError, match=rf"{first.name} and {last.name} both hold tensor 'model.norm"):
        read_layout(sharded)


def test_an_index_that_transformers_cannot_open_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda index: index.pop("metadata"))
    with pytest.raises(KeyError):
        stock(sharded)
    with pytest.raises(ValueError, match="has no metadata, without which transformers does not open it"):
        read_layout(sharded)


def test_the_file_that_the_configuration_names_is_the_model(sharded: Path, tmp_path: Path) -> None:
    save_file(others(tensors_of(sharded)), sharded / "mine.safetensors", metadata={"format": "pt"})
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    is_read_as_stock(sharded, tmp_path / "merged")
    (sharded / "config.json").write_text(json.dumps(config | {"transformers_weights": "../x.safetensors"}))
    with pytest.raises(ValueError, match=r"transformers_weights = '\.\./x\.safetensors'.*no file there"):
        read_layout(sharded)


def test_a_base_with_an_adapter_in_its_folder_is_refused(tiny: Tiny, sharded: Path, tmp_path: Path) -> None:
    tuning = Tuning(lora_rank=2)
    arrays = {key: np.ones_like(value) for key, value in initial_arrays(sharded, tuning, EXPERT).items()}
    adapter = export_adapter(tiny("mixtral"), arrays, tuning, tmp_path / "adapter")
    for file in adapter.iterdir():
        shutil.copyfile(file, sharded / file.name)
    assert "model.layers.1.mlp.experts.lora_A.default.weight" in stock(sharded), "transformers adds it"
    with pytest.raises(ValueError, match=r"an adapter beside its weights \(adapter_config.json\).*merge it"):
        read_layout(sharded)


@pytest.mark.parametrize("name", ["a[1]*?", "with space #1", "größe-世界", "%20&'\"", "~nobody-like-this"])
def test_the_name_of_a_folder_is_a_name(
    sharded: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded.rename(tmp_path / name)
    is_read_as_stock(folder, tmp_path / f"{name} merged")
    assert (tmp_path / f"{name} merged" / INDEX).is_file()
    monkeypatch.chdir(tmp_path)
    assert main([name]) == 0
