"""Checkpoints in bfloat16 and float16: the laws hold, and training loses nothing to the format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.tiny_models import MUST_PASS, SPECIAL
from moe.disk.layout import open_storage, read_layout
from moe.experts import Tuning
from moe.export.checkpoint import export_merged
from moe.inspect.selftest import check
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, get_arrays, initial_arrays, set_arrays

Half = Callable[[torch.dtype], Path]
DTYPES = [torch.bfloat16, torch.float16]
FULL = Tuning(method="full")


@pytest.fixture(params=MUST_PASS)
def half(request: pytest.FixtureRequest, tiny: Callable[..., Path]) -> Half:
    """Return the maker of a family's tiny checkpoint in a dtype."""
    return lambda dtype: tiny(request.param, dtype)


def keep_all(path: Path, tuning: Tuning) -> torch.nn.Module:
    return attach(load_submodel(path, all_experts(open_storage(path).blocks.values())), tuning).eval()


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**language_model_inputs(model, tokens)).logits


def assert_same(found: Tensor, expected: Tensor, path: Path) -> None:
    """To the bit; for a block that adds up in another order than transformers' own, to two roundings."""
    roundings = 2 * torch.finfo(found.dtype).eps * expected.abs().max().item()
    is_special = read_layout(path).family in SPECIAL
    torch.testing.assert_close(found, expected, atol=roundings if is_special else 0, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_laws_hold(half: Half, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = half(dtype)
    assert load_submodel(folder, {0: (1,)}).dtype == dtype
    wide = half(torch.float32)
    narrow, whole = read_layout(folder), read_layout(wide)
    assert all(2 * size == whole.expert_bytes[layer] for layer, size in narrow.expert_bytes.items())
    # A few families hold some shared tensors in float32 even so: tests/scenario/test_device_memory.py.
    assert whole.shared_bytes <= 2 * narrow.shared_bytes < 1.02 * whole.shared_bytes
    # What a device holds is counted in the type it holds, not in the file's.
    assert read_layout(folder, "float32") == read_layout(wide)
    assert read_layout(wide, dtype) == read_layout(folder)
    result = check(folder)
    assert result.is_merge_exact
    assert result.has_passed
    assert result.keep_all_error == 0.0 or result.family in SPECIAL
    generator = np.random.default_rng(6)
    for tuning in (Tuning(lora_rank=2), FULL):
        start = initial_arrays(folder, tuning, read_layout(folder).experts)
        same = export_merged(folder, start, tuning, tmp_path / f"same-{tuning.method}")
        for file in folder.iterdir():
            assert (same / file.name).read_bytes() == file.read_bytes(), file.name
        moved = {
            key: value + generator.normal(0, 0.1, value.shape).astype(np.float32)
            for key, value in start.items()
        }
        merged = export_merged(folder, moved, tuning, tmp_path / f"moved-{tuning.method}")
        held = MergedModel(folder, tuning).set(moved).model.state_dict()
        assert all(torch.equal(value, held[name]) for name, value in load_full(merged).state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_tuning_holds_what_the_format_cannot(half: Half, tokens: Tensor, dtype: torch.dtype) -> None:
    """A step of 1e-6 vanishes beside a weight of 0.2 in half precision; many of them must not."""
    folder = half(dtype)
    model = keep_all(folder, FULL)
    assert_same(logits(model, tokens), logits(load_full(folder), tokens), folder)
    start = initial_arrays(folder, FULL, read_layout(folder).experts)
    moved = {key: value + np.float32(1e-6) for key, value in start.items()}
    set_arrays(model, moved)
    assert all(np.array_equal(value, moved[key]) for key, value in get_arrays(model).items())
    # Rounded once, as the export does: the very same bits.
    generator = np.random.default_rng(1)
    moved = {
        key: value + generator.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()
    }
    set_arrays(model, moved)
    assert_same(logits(model, tokens), logits(MergedModel(folder, FULL).set(moved).model, tokens), folder)


@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
def test_training_in_bfloat16_lowers_the_loss(half: Half, tokens: Tensor, method: str) -> None:
    tuning = Tuning(method=method, lora_rank=4)  # type: ignore[arg-type]
    folder = half(torch.bfloat16)
    model = attach(load_submodel(folder, {0: (1, 5), 1: (0, 2, 7)}), tuning)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    losses = []
    for _ in range(8):
        loss = language_model_loss(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, losses
