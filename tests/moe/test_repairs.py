"""Configurations whose files choose what must not be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_models import save_tiny
from moe.submodel import load_full


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
