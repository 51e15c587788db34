"""A whole run on a model with a vision tower: tuned on text, by the way of all models."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from benchmarks.tiny_models import save_tiny
from moe.export.checkpoint import merge_adapter
from moe.submodel.load import load_full
from moe.tuning.adapters import MergedModel
from scenario.derive import tuning_from
from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings
from tests.runs.served import served_by


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "glm4v_moe"])
def test_a_model_with_a_vision_tower_is_tuned_on_text_and_taken_home(
    family: str, checkpoint: Path, tiny_run: Settings, clients: Callable[..., FakeGrid], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    base = save_tiny(tmp_path / "base", family, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    settings = {**tiny_run, "model.name": str(base), "merge.max-merges": 3}
    folder = run(clients(settings), read_config(settings))
    summary = json.loads((folder / "summary.json").read_text())
    assert any(c["own_loss_after"] < c["own_loss_before"] for c in summary["clusters"])
    values = load_state(folder)[0].values
    assert any(np.any(value) for value in values.values())
    tokens = torch.arange(12)[None] + 5
    with torch.no_grad():
        tuning = tuning_from(read_config(settings), ())
        expected = MergedModel(base, tuning).set(served_by(folder, base)).model(input_ids=tokens)
        stock = AutoModelForImageTextToText.from_pretrained(base)
        adapted = PeftModel.from_pretrained(stock, str(folder / "adapter"))(input_ids=tokens)
        merged = load_full(merge_adapter(base, folder / "adapter", tmp_path / "merged"))(input_ids=tokens)
    torch.testing.assert_close(adapted.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(merged.logits, expected.logits, atol=1e-4, rtol=0)
