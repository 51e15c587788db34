"""Configurations whose files choose what must not be used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiny_models import save_tiny
from moe.objective import language_model_loss
from moe.submodel.load import load_full, load_submodel


@pytest.mark.parametrize("family", ["mixtral", "qwen3_vl_moe"])
def test_a_file_that_chooses_batched_mm_does_not_get_it(tmp_path: Path, family: str) -> None:
    path = save_tiny(tmp_path, family)
    config = json.loads((path / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        part["experts_implementation"] = "batched_mm"
    (path / "config.json").write_text(json.dumps(config))
    experts: list[Any] = [m for m in load_full(path).modules() if type(m).__name__.endswith("Experts")]
    used = {module.config._experts_implementation for module in experts}
    assert used == {"grouped_mm"}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_5_moe"])
def test_the_loss_is_that_of_the_tokens_whatever_the_file_adds_to_it(
    tmp_path: Path, tokens: torch.Tensor, family: str
) -> None:
    path = save_tiny(tmp_path, family)
    config = json.loads((path / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        part |= {"output_router_logits": True, "router_aux_loss_coef": 5.0}
    (path / "config.json").write_text(json.dumps(config))
    for model in (load_full(path), load_submodel(path, {0: (1, 2), 1: (3,)})):
        with torch.no_grad():
            loss = language_model_loss(model, tokens)
            logits = model(input_ids=tokens, use_cache=False).logits
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        torch.testing.assert_close(loss, expected)
