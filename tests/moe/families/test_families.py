"""Every family of transformers that is expected to work, on tiny checkpoints.

The full set of laws is in ``test_laws.py`` for ten of them, in ``python -m benchmarks.families`` for all.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import FAMILIES, MUST_PASS, VOCABULARY, save_tiny
from moe.disk.layout import read_layout
from moe.families.blocks import TESTED_FAMILIES
from moe.inspect.selftest import check
from moe.objective import language_model_inputs
from moe.submodel.load import load_submodel


def test_the_families_called_tested_are_these() -> None:
    assert set(MUST_PASS) <= set(FAMILIES)
    assert set(FAMILIES) == TESTED_FAMILIES


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in MUST_PASS])
def test_a_family_slices_exactly_and_runs_with_few_experts(family: str, tmp_path: Path) -> None:
    path = save_tiny(tmp_path, family)
    result = check(path, num_clusters=2)
    assert result.is_merge_exact
    assert result.keep_all_error < 1e-6
    # Group-limited routers and those that always take two must live with one kept expert; with several,
    # the router's logits are looked for in what it gives.
    tokens = torch.arange(VOCABULARY)[None, ::8]
    for kept in ((3,), (1, 3, 6)):
        model = load_submodel(path, dict.fromkeys(read_layout(path).layers, kept))
        with torch.no_grad():
            assert torch.isfinite(model(**language_model_inputs(model, tokens)).logits).all()
