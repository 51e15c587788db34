"""What people take home: the adapter with its card, the merged checkpoint, the command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.export.checkpoint import export_adapter, export_merged, fingerprint, merge_adapter
from moe.export.command import main
from moe.tuning.adapters import initial_arrays

Tiny = Callable[[str], Path]
TUNING = Tuning(lora_rank=3, lora_alpha=5.0, seed=2)


def some_arrays(path: Path) -> ExpertArrays:
    """Return random changes of three experts; the others stay as they are."""
    generator = np.random.default_rng(0)
    start = initial_arrays(path, TUNING, [ExpertId(0, 2), ExpertId(1, 0), ExpertId(1, 7)])
    return {key: generator.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()}


def test_merging_the_adapter_file_is_merging_the_arrays_byte_for_byte(
    adaptable: Path, tmp_path: Path
) -> None:
    arrays = some_arrays(adaptable)
    export_adapter(adaptable, arrays, TUNING, tmp_path / "run" / "adapter")
    by_arrays = export_merged(adaptable, arrays, TUNING, tmp_path / "by-arrays")
    assert main([str(tmp_path / "run"), "--merged", str(tmp_path / "by-file")]) == 0
    changed = 0
    for file in by_arrays.iterdir():
        assert (tmp_path / "by-file" / file.name).read_bytes() == file.read_bytes(), file.name
        changed += file.read_bytes() != (adaptable / file.name).read_bytes()
    assert changed


def test_an_adapter_knows_its_base(tiny: Tiny, tmp_path: Path) -> None:
    export_adapter(tiny("mixtral"), some_arrays(tiny("mixtral")), TUNING, tmp_path / "adapter")
    told = json.loads((tmp_path / "adapter" / "ems_fl.json").read_text())
    assert told["base_fingerprint"] == fingerprint(tiny("mixtral"))
    assert told["tuning"]["seed"] == 2
    other = save_tiny(tmp_path / "other", "mixtral", rms_norm_eps=0.125)
    with pytest.raises(ValueError, match=r"fingerprint .* give the base it was trained on"):
        merge_adapter(other, tmp_path / "adapter", tmp_path / "merged")


def test_the_card_says_what_was_tuned_and_what_the_run_adds(tiny: Tiny, tmp_path: Path) -> None:
    about = {"Results": "loss 3.9 -> 3.4"}
    export_adapter(tiny("olmoe"), {}, TUNING, tmp_path / "adapter", about=about)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "router too" not in card
    both = Tuning(method="lora", lora_rank=3, router_rows=True)
    export_adapter(tiny("olmoe"), {}, both, tmp_path / "rows")
    assert "both factors trained" in (rows := (tmp_path / "rows" / "README.md").read_text())
    assert "the experts' rows of the router too" in rows
    for line in ("olmoe, 2 MoE layers, top-2", "rank 3, alpha 5", "## Results\n\nloss 3.9 -> 3.4"):
        assert line in card


def test_the_command_says_what_is_wrong(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--merged", str(tmp_path / "out")]) == 1
    assert "has no adapter_config.json; give the folder of a run" in capsys.readouterr().err
    export_adapter(tiny("mixtral"), {}, TUNING, tmp_path / "adapter")
    (tmp_path / "adapter" / "ems_fl.json").unlink()
    other = save_tiny(tmp_path / "other", "mixtral", intermediate_size=16)
    out = ["--merged", str(tmp_path / "out"), "--base", str(other)]
    assert main([str(tmp_path), *out]) == 1
    assert "is not one on the experts of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_experts_that_were_not_tuned_keep_their_bytes(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny("mixtral")
    out = export_merged(base, some_arrays(base), TUNING, tmp_path / "out")
    kept = [e for e in read_layout(base).experts if e not in (ExpertId(0, 2), ExpertId(1, 0), ExpertId(1, 7))]
    full = Tuning(method="full")
    before, after = initial_arrays(base, full, kept), initial_arrays(out, full, kept)
    assert all(np.array_equal(before[key], after[key]) for key in before)
