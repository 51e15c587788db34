"""A checkpoint that brings its own code: refused unless trusted; trusted, a family like any other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.tiny_models import VOCABULARY, save_tiny
from moe.disk.layout import open_storage, read_layout, trust_code_of
from moe.experts import Tuning
from moe.export.checkpoint import export_adapter, export_merged
from moe.inspect.command import main
from moe.inspect.selftest import check
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach, get_arrays

FAMILY = "strange_moe"
CONFIGURATION = """
from transformers import OlmoeConfig


class StrangeConfig(OlmoeConfig):
    model_type = "strange_moe"
"""
# Half of what every attention gives: no family of transformers computes that.
MODELLING = """
from transformers.models.olmoe.modeling_olmoe import OlmoeForCausalLM

from .configuration_strange import StrangeConfig


class StrangeForCausalLM(OlmoeForCausalLM):
    config_class = StrangeConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.register_forward_hook(lambda _, __, out: (out[0] * 0.5, *out[1:]))
"""


def make_strange(folder: Path, **sizes: Any) -> Path:
    """Save an OLMoE of another name, with code."""
    save_tiny(folder, "olmoe", **sizes)
    # A family that transformers does not know is stored as its class has it: fused.
    tensors = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        file.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "configuration_strange.py").write_text(CONFIGURATION)
    (folder / "modeling_strange.py").write_text(MODELLING)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": FAMILY,
        "architectures": ["StrangeForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_strange.StrangeConfig",
            "AutoModelForCausalLM": "modeling_strange.StrangeForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Path]:
    """Return a checkpoint of a family that transformers does not know, with code."""
    yield make_strange(tmp_path / "strange")
    CONFIG_MAPPING._extra_content.pop(FAMILY, None)


def test_code_that_nobody_trusts_is_not_run(strange: Path) -> None:
    (strange / "modeling_strange.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=r"needs code of its own .*model\.trust-remote-code = true"):
        read_layout(strange)


def test_trusted_code_makes_a_family_like_any_other(
    strange: Path, tokens: torch.Tensor, tmp_path: Path
) -> None:
    assert trust_code_of(strange)
    assert trust_code_of(strange)  # a second time, as a second model in one process
    found = check(strange)
    assert found.has_passed and found.family == FAMILY
    theirs = AutoModelForCausalLM.from_pretrained(strange, trust_remote_code=True).eval()
    layout = read_layout(strange)
    keep = {layer: range(count) for layer, count in layout.num_experts.items()}
    model = load_submodel(strange, keep)
    assert type(model).__name__ == "StrangeForCausalLM"
    with torch.no_grad():
        expected = theirs(input_ids=tokens).logits
        assert torch.equal(model(input_ids=tokens).logits, expected)
    arrays = get_arrays(attach(load_submodel(strange, {0: (1,), 1: (2,)}), Tuning()))
    export_merged(strange, arrays, Tuning(), tmp_path / "merged")
    assert (tmp_path / "merged" / "modeling_strange.py").is_file()
    export_adapter(strange, arrays, Tuning(), tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "**the base brings code of its own**, which ran in training" in card
    assert "trust_remote_code=True)" in card


def test_inspect_runs_code_only_when_told(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(strange)]) != 0
    assert "needs code of its own" in capsys.readouterr().err
    assert main([str(strange), "--trust-remote-code"]) == 0
    assert f"{FAMILY} (not in the tests: run with --self-test)" in capsys.readouterr().out


def test_code_that_fails_and_code_from_elsewhere_are_refused_in_one_line(strange: Path) -> None:
    (strange / "modeling_strange.py").write_text("import no_such_module_at_all")
    with pytest.raises(
        ValueError, match=r"brings code that cannot be used \(ImportError: .*no_such_module_at_all"
    ):
        trust_code_of(strange)
    config = json.loads((strange / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "somebody/else--configuration_strange.StrangeConfig"
    (strange / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"names code of another repository \(somebody/else--"):
        trust_code_of(strange)


def test_a_family_that_transformers_has_runs_no_code_of_the_checkpoint(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "mixtral")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    assert not trust_code_of(folder)
    assert open_storage(folder).model.config.vocab_size == VOCABULARY
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=False)).__name__ == "MixtralConfig"
