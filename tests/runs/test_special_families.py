"""Whole runs on families that hold or call their experts in a way of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import auto_class, read_layout
from moe.experts import ExpertArrays
from moe.objective import language_model_inputs
from moe.submodel.load import load_full
from moe.tuning.adapters import MergedModel
from scenario.derive import tuning_from
from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings
from tests.runs.served import served_by

TOKENS = torch.arange(24).view(2, 12) + 5


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**language_model_inputs(model, TOKENS)).logits


@pytest.fixture(params=["switch_transformers", "dbrx"])
def finished(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    tiny_run: Settings,
    clients: Callable[..., FakeGrid],
    tmp_path: Path,
) -> tuple[Path, Path, RunConfig]:
    """Return a tiny base with a tokenizer, the folder of a run on it, and its configuration."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    base = save_tiny(tmp_path / "base", request.param, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    is_asked = request.param != "dbrx"  # which has nothing else to take home
    settings = {**tiny_run, "model.name": str(base), "merge.max-merges": 3, "run.export-merged": is_asked}
    return base, run(clients(settings), read_config(settings)), read_config(settings)


def test_a_run_lowers_the_loss_and_what_it_takes_home_is_the_merged_model(
    finished: tuple[Path, Path, RunConfig],
) -> None:
    base, folder, config = finished
    clusters = json.loads((folder / "summary.json").read_text())["clusters"]
    assert any(c["own_loss_after"] < c["own_loss_before"] - 0.01 for c in clusters), clusters
    values: ExpertArrays = load_state(folder)[0].values
    assert any(np.any(value) for value in values.values())
    expected = logits(MergedModel(base, tuning_from(config, ())).set(served_by(folder, base)).model)
    assert not torch.allclose(expected, logits(load_full(base)), atol=1e-3)
    assert torch.equal(logits(load_full(folder / "merged")), expected)
    if read_layout(base).family == "dbrx":
        assert not (folder / "adapter").exists()
        return
    full = load_full(base)
    stock = auto_class(full.config).from_pretrained(base)
    adapted = PeftModel.from_pretrained(stock, str(folder / "adapter"))
    torch.testing.assert_close(logits(adapted), expected, atol=1e-4, rtol=0)
