"""How far experts moved: the norm of what a merge would add to their weights."""

from pathlib import Path

import numpy as np
import pytest

from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, ExpertId, Method, Tuning
from moe.tuning.adapters import initial_arrays
from moe.tuning.merge import merged_experts
from moe.tuning.movement import change_norms


@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
def test_an_experts_movement_is_the_norm_of_what_is_added_to_its_weights(
    checkpoint: Path, method: Method
) -> None:
    layout, tuning = read_layout(checkpoint), Tuning(method=method, lora_rank=2)
    moved, still = ExpertId(layout.layers[0], 1), ExpertId(layout.layers[0], 0)
    initial = initial_arrays(checkpoint, tuning, [moved, still])
    rng = np.random.default_rng(0)
    values: ExpertArrays = {
        key: value + rng.normal(size=value.shape).astype(np.float32) if key.expert == moved else value
        for key, value in initial.items()
    }
    storage = open_storage(checkpoint)
    base = storage.read_expert(moved.layer, moved.index)
    merged = dict(merged_experts(storage, values, tuning))[moved]
    expected = sum(float(((merged[name].float() - base[name].float()) ** 2).sum()) for name in base) ** 0.5
    norms = change_norms(layout, initial, values, tuning)
    assert norms[moved] == pytest.approx(expected, rel=1e-4)
    assert norms[still] == 0.0
