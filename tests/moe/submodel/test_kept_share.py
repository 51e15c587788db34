"""What a sub-model's own experts catch of the routing: the full model's where they are all there are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_models import FAMILIES
from moe.disk.layout import read_layout
from moe.experts import Tuning
from moe.submodel.load import load_full, load_submodel
from moe.submodel.routing import kept_share, routing_mass
from moe.tuning.adapters import attach

SOME = [family for at, family in enumerate(sorted(FAMILIES)) if at % 8 == 0]
"""Every eighth: blocks that are replaced, identity experts and encoder-decoders among them."""


@pytest.mark.parametrize("family", [*SOME, "mixtral", "gpt_oss"])
def test_the_first_layers_share_is_that_of_the_full_routing(
    family: str, tiny: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    """What enters the first layer with experts depends on none of them: its routing is the full model's."""
    path = tiny(family)
    layers = read_layout(path).layers
    keep = {layer: (1, 3) for layer in layers}
    full = routing_mass(load_full(path), [tokens])
    found = kept_share(load_submodel(path, keep), [tokens])
    if len(layers) == 1:
        assert found == pytest.approx(full[0, [1, 3]].sum() / full[0].sum(), rel=1e-5)
        return
    rest = [
        (1, 3) if layer == layers[0] else tuple(range(read_layout(path).num_experts[layer]))
        for layer in layers
    ]
    only_first = kept_share(load_submodel(path, dict(zip(layers, rest, strict=True))), [tokens])
    expected = (full[0, [1, 3]].sum() / full[0].sum() + len(layers) - 1) / len(layers)
    assert only_first == pytest.approx(expected, rel=1e-5)
    assert 0.0 <= found <= 1.0


def test_adapters_of_zero_change_nothing_and_a_model_is_left_as_it_was(
    tiny: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    path = tiny("mixtral")
    keep = dict.fromkeys(read_layout(path).layers, (0, 2))
    plain = load_submodel(path, keep)
    tuned = attach(load_submodel(path, keep), Tuning())
    assert kept_share(tuned, [tokens]) == kept_share(plain, [tokens])
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in plain.modules()]
    again = load_submodel(path, keep)
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in again.modules()]


def test_without_a_batch_nothing_can_be_told(tiny: Callable[[str], Path]) -> None:
    path = tiny("mixtral")
    model = load_submodel(path, dict.fromkeys(read_layout(path).layers, (0,)))
    with pytest.raises(ValueError, match="at least one batch"):
        kept_share(model, [])


def test_two_halves_of_the_experts_catch_everything_between_them(
    tiny: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    path = tiny("mixtral")
    (first, *_), count = read_layout(path).layers, read_layout(path).num_experts
    every = {layer: tuple(range(number)) for layer, number in count.items()}
    shares = [
        kept_share(load_submodel(path, {**every, first: half}), [tokens])
        for half in (every[first][::2], every[first][1::2])
    ]
    num_layers = len(count)
    assert np.isclose(sum(share * num_layers - (num_layers - 1) for share in shares), 1.0)
