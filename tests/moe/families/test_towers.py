"""Models with a vision tower, as they are downloaded, tuned on text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from benchmarks.published import PUBLISHED
from benchmarks.tiny_models import save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, Tuning
from moe.export.checkpoint import export_adapter, export_merged, merge_adapter
from moe.inspect.command import main
from moe.inspect.selftest import check
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import MergedModel, initial_arrays

TUNING = Tuning(lora_rank=2)


def random_arrays(path: Path) -> ExpertArrays:
    layout, generator = read_layout(path), np.random.default_rng(3)
    return {
        key: generator.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in initial_arrays(layout, TUNING, layout.experts).items()
    }


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "kimi_k25"])
def test_files_as_published_and_files_as_transformers_writes_them_are_one_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = save_tiny(tmp_path / "published", family)
    monkeypatch.delitem(PUBLISHED, family)
    written = save_tiny(tmp_path / "written", family)
    assert tensors(published).keys() != tensors(written).keys() or any(
        value.shape != tensors(written)[name].shape for name, value in tensors(published).items()
    )
    models = []
    for path in (published, written):
        assert check(path).has_passed
        merged = export_merged(path, random_arrays(path), TUNING, tmp_path / f"{path.name}-merged")
        assert {n: v.shape for n, v in tensors(merged).items()} == {
            n: v.shape for n, v in tensors(path).items()
        }
        models.append(load_full(merged).state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_tower_that_is_not_loaded_is_left_as_it_is(
    tiny: Callable[[str], Path], tmp_path: Path, tokens: torch.Tensor
) -> None:
    path = tiny("qwen3_5_moe")
    storage = open_storage(path)
    assert type(storage.model).__name__ == "Qwen3_5MoeForCausalLM"
    assert {name.split(".")[1] for name in storage.unused_names} == {"visual"}
    arrays = random_arrays(path)
    merged = export_merged(path, arrays, TUNING, tmp_path / "merged")
    before, after = tensors(path), tensors(merged)
    assert all(torch.equal(after[name], before[name]) for name in storage.unused_names)
    # The merged files are a whole model again, pictures and all, with the same words.
    whole = AutoModelForImageTextToText.from_pretrained(merged)
    assert torch.equal(logits(whole, tokens), logits(MergedModel(path, TUNING).set(arrays).model, tokens))


@pytest.mark.parametrize("family", ["deepseek_ocr2", "mistral_large4", "unlimited_ocr"])
def test_an_adapter_has_the_names_under_which_peft_finds_its_place(
    family: str, tiny: Callable[[str], Path], tmp_path: Path, tokens: torch.Tensor
) -> None:
    path = tiny(family)
    arrays = random_arrays(path)
    adapter = export_adapter(path, arrays, TUNING, tmp_path / "adapter")
    expected = logits(MergedModel(path, TUNING).set(arrays).model, tokens)
    stock = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(path), str(adapter))
    torch.testing.assert_close(logits(stock, tokens), expected, atol=1e-5, rtol=0)
    merged = merge_adapter(path, adapter, tmp_path / "merged")
    torch.testing.assert_close(logits(load_full(merged), tokens), expected, atol=1e-5, rtol=0)
    assert "AutoModelForImageTextToText.from_pretrained" in (adapter / "README.md").read_text()


def test_an_adapter_says_what_its_base_was(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    for family in ("mixtral", "qwen3_5_moe"):
        path = tiny(family)
        adapter = export_adapter(path, random_arrays(path), TUNING, tmp_path / family)
        assert f'"base_model_name_or_path": "{path}"' in (adapter / "adapter_config.json").read_text()


def test_experts_of_a_tower_are_no_experts_of_the_text(tiny: Callable[[str], Path]) -> None:
    path = tiny("dots3_note")
    assert any("vision_encoder.blocks.1.mlp.experts" in name for name in tensors(path))
    assert read_layout(path).num_experts == {1: 8}


def test_what_experts_share_is_loaded_with_the_rest(tiny: Callable[[str], Path]) -> None:
    path = tiny("muse_spark")
    name = "model.language_model.layers.1.mlp.experts.post_expert_norm.weight"
    norm = load_submodel(path, {1: (3,)}).get_parameter(name)
    assert torch.equal(norm, load_full(path).get_parameter(name))


def test_inspect_tells_what_is_not_for_text(
    tiny: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny("qwen3_vl_moe"))]) == 0
    told = capsys.readouterr().out
    for line in ("qwen3_vl_moe (tested)", "2 of 2", "of it not for text          visual 240.90 kB"):
        assert line in told
    assert main([str(tiny("qwen3_5_moe"))]) == 0
    told = capsys.readouterr().out
    assert "bytes left on disk          157.31 kB, which Qwen3_5MoeForCausalLM does not use" in told
    assert "not for text" not in told
