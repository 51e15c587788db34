"""Models trained as one: the balance that keeps experts from following domains, and what comes of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from demo.base_model import ensure_base_model, make_base_model
from demo.joint import unevenness
from demo.recipe import BY_NAME, TINY, Stage

TINY_JOINT = replace(
    TINY,
    num_experts=6,
    experts_per_token=2,
    seed_stage=Stage(num_steps=12, learning_rate=8e-3, batch_size=4),
    balance=0.1,
)


def logits(chosen: list[list[int]]) -> Tensor:
    """Return logits [1, T, 4] that are near certain of two experts for each token."""
    out_BTE = torch.full((1, len(chosen), 4), -20.0)
    for token, experts in enumerate(chosen):
        out_BTE[0, token, experts] = 20.0
    return out_BTE


@pytest.mark.parametrize("over", ["batch", "sequence"])
def test_even_use_costs_one_and_one_sided_use_as_much_as_there_are_experts_for_each_choice(over: str) -> None:
    even = logits([[0, 1], [2, 3], [0, 2], [1, 3]])
    same = logits([[0, 1]] * 4)
    assert unevenness(even, 2, over).item() == pytest.approx(1.0, abs=1e-4)
    assert unevenness(same, 2, over).item() == pytest.approx(4 / 2, abs=1e-4)


def test_sequences_that_each_like_others_are_even_over_the_batch_and_uneven_in_themselves() -> None:
    batch = torch.cat([logits([[0, 1]] * 4), logits([[2, 3]] * 4)])
    assert unevenness(batch, 2, "batch").item() == pytest.approx(1.0, abs=1e-4)
    assert unevenness(batch, 2, "sequence").item() == pytest.approx(2.0, abs=1e-4)


def test_a_model_has_the_experts_its_recipe_says_and_is_the_same_again(tmp_path: Path) -> None:
    made = ensure_base_model(lambda _: None, TINY_JOINT)
    (tmp_path / "again").mkdir()
    make_base_model(tmp_path / "again", lambda _: None, TINY_JOINT)
    config = AutoConfig.from_pretrained(made)
    assert (config.num_local_experts, config.num_experts_per_tok) == (6, 2)
    first, second = (load_file(folder / "model.safetensors") for folder in (made, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_named_models_are_different_ones() -> None:
    assert len({recipe.key() for recipe in BY_NAME.values()}) == len(BY_NAME) == 3
    assert BY_NAME["demo-field"].num_experts >= 32 and BY_NAME["demo-field"].experts_per_token >= 4
