"""The self-test must see a fault: it is all that stands between an unknown family and a silent error."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.tiny_models import save_tiny
from moe.inspect import selftest
from moe.inspect.selftest import check
from moe.submodel.expert_subset import ExpertSubset
from moe.submodel.load import fused_experts

Tiny = Callable[[str], Path]


def test_it_fails_when_a_weight_comes_back_changed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(model: nn.Module) -> dict[int, dict[int, dict[str, Tensor]]]:
        found = fused_experts(model)
        for experts in found.values():
            for index in experts:
                if index == 3:
                    experts[index]["down_proj"] = experts[index]["down_proj"] + 1e-6
        return found

    monkeypatch.setattr(selftest, "fused_experts", damaged)
    result = check(tiny("mixtral"))
    assert not result.is_merge_exact
    assert not result.has_passed


def test_it_fails_when_the_experts_compute_something_else(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ExpertSubset._run
    monkeypatch.setattr(
        ExpertSubset, "_run", lambda self, hidden, sizes: real(self, torch.relu(hidden), sizes)
    )
    result = check(tiny("mixtral"))
    assert result.is_merge_exact
    assert result.keep_all_error > 1e-3
    assert not result.has_passed


def test_in_half_precision_two_roundings_are_allowed_and_a_fault_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16)
    assert check(path).tolerance == 2 * 2**-7  # bfloat16 has 8 bits of precision
    real = ExpertSubset._run
    monkeypatch.setattr(
        ExpertSubset, "_run", lambda self, hidden, sizes: real(self, torch.relu(hidden), sizes)
    )
    assert not check(path).has_passed
