"""The merged model without its memory: experts come from disk with their changes added."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import ReferenceType, ref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.tiny_models import MUST_PASS
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, Tuning
from moe.objective import language_model_inputs
from moe.submodel.load import StreamedExperts
from moe.tuning.adapters import MergedModel, initial_arrays

Tiny = Callable[..., Path]


def changed(path: Path, tuning: Tuning, seed: int) -> ExpertArrays:
    """Values of half of the experts."""
    rng = np.random.default_rng(seed)
    experts = [expert for expert in read_layout(path).experts if expert.index % 2 == seed % 2]
    return {
        key: value + rng.normal(0, 0.2, value.shape).astype(np.float32)
        for key, value in initial_arrays(path, tuning, experts).items()
    }


def logits(merged: MergedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = merged.model(**language_model_inputs(merged.model, tokens)).logits
    return found.float()


@pytest.mark.parametrize("family", MUST_PASS)
@pytest.mark.parametrize("tuning", [Tuning(lora_rank=2), Tuning(method="full")], ids=["ffa", "full"])
def test_it_has_the_numbers_of_the_model_in_memory(
    tiny: Tiny, tokens: Tensor, family: str, tuning: Tuning
) -> None:
    path = tiny(family)
    tuning = replace(tuning, router_rows=read_layout(path).router_width is not None)
    held, streamed = MergedModel(path, tuning), MergedModel(path, tuning, streamed=True)
    base = logits(streamed, tokens)
    for seed in (0, 1):
        arrays = changed(path, tuning, seed)
        expected = logits(held.set(arrays), tokens)
        assert (expected - base).abs().max() > 1e-3, "the arrays must change the model"
        torch.testing.assert_close(logits(streamed.set(arrays), tokens), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(streamed.set({}), tokens), base), "nothing of what was set may remain"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_base_and_change_are_rounded_once_as_in_memory(
    tiny: Tiny, tokens: Tensor, dtype: torch.dtype
) -> None:
    path, tuning = tiny("mixtral", dtype), Tuning(lora_rank=2)
    arrays = changed(path, tuning, 0)
    held = MergedModel(path, tuning).set(arrays)
    streamed = MergedModel(path, tuning, streamed=True).set(arrays)
    assert torch.equal(logits(streamed, tokens), logits(held, tokens))


def test_it_holds_the_shared_part_alone(tiny: Tiny) -> None:
    path = tiny("olmoe")
    streamed = MergedModel(path, Tuning(), streamed=True).set(changed(path, Tuning(), 0))
    held = sum(parameter.nbytes for parameter in streamed.model.parameters())
    assert held == open_storage(path).shared_bytes < 0.6 * read_layout(path).total_bytes


def test_no_more_than_one_linear_layer_of_one_expert_is_there_at_a_time(
    tiny: Tiny, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = MergedModel(tiny("olmoe"), Tuning(), streamed=True)
    read, seen = StreamedExperts.layer_of, list[ReferenceType[nn.Module]]()

    def watched(self: StreamedExperts, index: int, projection: str) -> nn.Module:
        assert not any(layer() is not None for layer in seen)
        layer = read(self, index, projection)
        seen.append(ref(layer))
        return layer

    monkeypatch.setattr(StreamedExperts, "layer_of", watched)
    logits(streamed, tokens)
    assert len(seen) > 8
