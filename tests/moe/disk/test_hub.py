"""A base with a name on the hub: what is taken home names it so that others find it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moe.disk.hub import hub_name, resolve_folder
from moe.disk.layout import read_layout
from moe.experts import Tuning
from moe.export.checkpoint import export_adapter, fingerprint
from moe.export.command import main
from moe.tuning.adapters import initial_arrays

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "ems-fl-tests/tiny-mixtral"
TUNING = Tuning(lora_rank=2)


@pytest.fixture
def cached(tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a tiny checkpoint into a hub cache of this test's own, and go offline; return its folder there."""
    model = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    folder = model / "snapshots" / COMMIT
    shutil.copytree(tiny("mixtral"), folder)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def test_a_folder_of_the_cache_is_known_by_its_hub_name(tmp_path: Path) -> None:
    assert hub_name(Path("/c/hub/models--allenai--OLMoE-1B-7B-0924/snapshots/abc")) == (
        "allenai/OLMoE-1B-7B-0924",
        "abc",
    )
    assert hub_name(Path("/c/hub/models--gpt2/snapshots/abc")) == ("gpt2", "abc")
    assert hub_name(tmp_path) is None
    assert hub_name(Path("/c/datasets--a--b/snapshots/abc")) is None
    assert hub_name(Path("/")) is None


def test_an_adapter_names_its_base_as_the_hub_does_and_is_merged_into_that(
    cached: Path, tmp_path: Path
) -> None:
    assert resolve_folder(NAME) == cached
    arrays = initial_arrays(NAME, TUNING, read_layout(NAME).experts)
    export_adapter(NAME, arrays, TUNING, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (NAME, COMMIT)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {NAME}\nlibrary_name: peft\n")
    assert f"- base: {NAME} at {COMMIT} (" in card
    assert f'AutoModelForCausalLM.from_pretrained("{NAME}")' in card
    assert str(tmp_path) not in card + json.dumps(config)
    assert main([str(tmp_path / "adapter"), "--merged", str(tmp_path / "merged")]) == 0
    assert fingerprint(tmp_path / "merged") == fingerprint(cached)
