"""Whole runs on checkpoints as they are published: quantised, or with code of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.gguf_files import Kind, write_gguf
from benchmarks.quantised import quantise
from benchmarks.tiny_models import save_tiny
from moe.tuning.adapters import MergedModel
from scenario.derive import tuning_from
from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from tests.fake_grid import FakeGrid
from tests.moe.families.test_remote_code import FAMILY, make_strange
from tests.runs.conftest import Settings
from tests.runs.served import served_by


@pytest.mark.parametrize(
    ("family", "form", "sizes"),
    [
        ("qwen3_moe", "fp8", {"moe_intermediate_size": 32}),
        ("gpt_oss", "mxfp4", {"hidden_size": 64, "intermediate_size": 32}),
        ("qwen3_moe", "gguf", {}),
    ],
)
def test_a_quantised_base_is_tuned_and_taken_home_and_holding_its_bits_changes_no_event(
    family: str,
    form: str,
    sizes: dict[str, Any],
    checkpoint: Path,
    tiny_run: Settings,
    clients: Callable[..., FakeGrid],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if form == "gguf":
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        base = write_gguf(tmp_path, family, Kind.Q8_0)  # with words of its own
    else:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        base = save_tiny(tmp_path / "base", family, dtype=torch.bfloat16, vocab_size=len(tokenizer), **sizes)
        quantise(base, form)
        tokenizer.save_pretrained(base)
    settings = {**tiny_run, "model.name": str(base), "merge.max-merges": 3, "run.export-merged": True}
    folder = run(clients(settings), read_config(settings))
    summary = json.loads((folder / "summary.json").read_text())
    assert any(c["own_loss_after"] < c["own_loss_before"] for c in summary["clusters"])
    in_bits = {**settings, "model.hold": "file", "run.name": "bits", "evaluate.streamed": True}
    other = run(clients(in_bits), read_config(in_bits))
    values, others = load_state(folder)[0].values, load_state(other)[0].values
    assert values.keys() == others.keys()
    assert all((others[key] == value).all() for key, value in values.items())
    stock = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype="auto")
    assert stock.dtype == torch.bfloat16
    tokens = torch.arange(12)[None] + 5
    expected = MergedModel(base, tuning_from(read_config(settings), ())).set(served_by(folder, base)).model
    with torch.no_grad():
        assert torch.equal(stock(input_ids=tokens).logits, expected(input_ids=tokens).logits)


def test_whole_weights_are_not_tuned_in_the_files_bits(tiny_run: Settings) -> None:
    with pytest.raises(ValueError, match=r'model\.hold = "file" needs a LoRA train\.method, got "full"'):
        read_config({**tiny_run, "model.hold": "file", "train.method": "full"})


def test_a_family_with_its_own_code_is_tried_tuned_and_said_aloud(
    checkpoint: Path,
    tiny_run: Settings,
    clients: Callable[..., FakeGrid],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    base = make_strange(tmp_path / "strange", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    settings = {**tiny_run, "model.name": str(base), "merge.max-merges": 2}
    with pytest.raises(ValueError, match=r"needs code of its own .*model\.trust-remote-code = true"):
        run(clients(settings), read_config(settings))
    trusting = {**settings, "model.trust-remote-code": True}
    try:
        folder = run(clients(trusting), read_config(trusting))
    finally:
        CONFIG_MAPPING._extra_content.pop(FAMILY, None)
    said = capsys.readouterr().out
    assert "\033[1;31mCODE THAT CAME WITH THE CHECKPOINT RUNS HERE AND ON EVERY DEVICE" in said
    assert f"family {FAMILY} is in no test of this project; it passed the self-test" in " ".join(said.split())
    assert "**the base brings code of its own**" in (folder / "adapter" / "README.md").read_text()
