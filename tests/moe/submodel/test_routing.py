"""Which experts data uses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tiny_models import SPECIAL
from moe.disk.layout import read_layout
from moe.families.blocks import find_blocks
from moe.objective import language_model_inputs
from moe.submodel.load import load_full, load_streamed, load_submodel
from moe.submodel.routing import routing_mass
from tests.moe.submodel.slow_blocks import choices, is_special


def test_routing_mass_adds_up_the_routers_own_weights(checkpoint: Path, tokens: torch.Tensor) -> None:
    model = load_full(checkpoint)
    expected = np.zeros((2, 8))
    for row, block in enumerate(find_blocks(model)):

        def add(
            _m: object,
            _a: object,
            output: tuple[torch.Tensor, ...],
            row: int = row,
            parent: nn.Module = block.family.parent,
        ) -> None:
            if is_special(parent):
                for token in choices(parent, output)[0]:
                    for expert, weight in token.items():
                        # Behind the 8 real experts there may be identity experts, which are nobody's.
                        if expert < 8:
                            expected[row, expert] += weight
                return
            for weights, chosen in zip(output[1].tolist(), output[2].tolist(), strict=True):
                for weight, expert in zip(weights, chosen, strict=True):
                    expected[row, expert] += weight

        block.router.register_forward_hook(add)
    mass = routing_mass(model, [tokens[:1], tokens[1:]])
    assert mass.shape == (2, 8)
    np.testing.assert_allclose(mass, expected, rtol=1e-6)


def test_routing_mass_leaves_no_hook_behind_and_keeps_the_mode(
    tiny: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    model = load_full(tiny("mixtral")).train()
    first = routing_mass(model, [tokens])
    assert model.training
    assert np.array_equal(routing_mass(model, [tokens]), first)
    # Mixtral's weights sum to one a token.
    np.testing.assert_allclose(first.sum(axis=1), tokens.numel(), rtol=1e-6)
    assert not any(block.experts._forward_pre_hooks for block in find_blocks(model))


def test_experts_streamed_from_disk_give_the_same_mass_and_logits(
    checkpoint: Path, tokens: torch.Tensor
) -> None:
    streamed, full = load_streamed(checkpoint), load_full(checkpoint)
    held = {block.tensor_name(name, 0) for block in find_blocks(full) for name in block.parameters}
    assert not held & streamed.state_dict().keys()
    np.testing.assert_allclose(routing_mass(streamed, [tokens]), routing_mass(full, [tokens]), rtol=1e-5)
    with torch.no_grad():
        inputs = language_model_inputs(full, tokens)
        is_exact = read_layout(checkpoint).family not in SPECIAL
        torch.testing.assert_close(
            streamed(**inputs).logits, full(**inputs).logits, atol=0 if is_exact else 5e-6, rtol=0
        )


def test_a_sub_model_cannot_tell_what_the_full_model_would_use(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"profile with moe.submodel.load.load_full or load_streamed"):
        routing_mass(load_submodel(tiny("mixtral"), {0: (1,)}), [torch.zeros(1, 2, dtype=torch.long)])


def test_routing_mass_of_nothing_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        routing_mass(load_full(tiny("mixtral")), [])
