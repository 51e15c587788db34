"""A checkpoint under its publisher's name is the model that transformers has under another."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import read_layout
from moe.submodel.load import load_full, load_submodel

OWN_CODE = {
    "AutoConfig": "configuration_deepseek.DeepseekV3Config",
    "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
}


def kimi_k2(folder: Path, architecture: str = "DeepseekV3ForCausalLM") -> Path:
    """Return a tiny checkpoint whose config.json says what Kimi-K2's says; its own code is not there."""
    save_tiny(folder, "deepseek_v3")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "kimi_k2", "architectures": [architecture], "auto_map": OWN_CODE}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def test_kimi_k2_is_read_as_the_deepseek_v3_it_is(tmp_path: Path) -> None:
    published, known = kimi_k2(tmp_path / "kimi"), save_tiny(tmp_path / "deepseek", "deepseek_v3")
    layout = read_layout(published)
    assert layout == read_layout(known)
    tokens = torch.arange(12)[None]
    expected = load_full(known)(input_ids=tokens).logits
    assert torch.equal(load_full(published)(input_ids=tokens).logits, expected)
    keep = {layer: [0, 2] for layer in layout.layers}
    parts = [load_submodel(folder, keep)(input_ids=tokens).logits for folder in (published, known)]
    assert torch.equal(*parts)


def test_the_name_alone_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs code of its own.*trust-remote-code"):
        read_layout(kimi_k2(tmp_path / "other", "KimiForCausalLM"))
