"""The local loop, on a model small enough to follow by hand."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.train import TrainSpec, train
from moe.objective import mean_loss

SPEC = TrainSpec(
    steps=4,
    wall_budget_s=math.inf,
    batch_size=2,
    learning_rate=0.5,
    optimizer="sgd",
    weight_decay=0.0,
    max_grad_norm=1e6,
)
BLOCKS_NT = np.arange(5, dtype=np.int64)[:, None] * np.ones((1, 3), np.int64)


class Pull(nn.Module):
    """Loss is half the mean squared distance of one weight from the tokens: its gradient is w - mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(8.0))
        self.frozen = nn.Parameter(torch.tensor(3.0), requires_grad=False)
        self.lora_dropout = nn.Dropout(0.5)
        self.other_dropout = nn.Dropout(0.5)
        self.seen: list[list[int]] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> SimpleNamespace:
        assert input_ids is labels and not use_cache
        self.seen.append(sorted(int(row[0]) for row in input_ids))
        self.modes.append((self.lora_dropout.training, self.other_dropout.training))
        return SimpleNamespace(loss=0.5 * (self.weight - input_ids.float()).square().mean())


def test_steps_follow_gradient_descent_worked_by_hand() -> None:
    model, weight = Pull(), 8.0
    result = train(model, BLOCKS_NT, SPEC, [1, 2, 0])
    for batch in model.seen:
        weight -= 0.5 * (weight - sum(batch) / 2)
    assert model.weight.item() == pytest.approx(weight, rel=1e-6)
    assert model.frozen.item() == 3.0
    assert result.steps == 4


def test_the_proximal_term_pulls_back_to_the_start_by_hand() -> None:
    model, weight = Pull(), 8.0
    train(model, BLOCKS_NT, replace(SPEC, proximal_mu=0.5), [1, 2, 0])
    for batch in model.seen:
        # FedProx, arXiv 1812.06127, eq. 2: the gradient of mu / 2 (w - start)^2 beside the loss's.
        weight -= 0.5 * ((weight - sum(batch) / 2) + 0.5 * (weight - 8.0))
    assert model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_every_block_comes_once_before_any_comes_again() -> None:
    model = Pull()
    result = train(model, BLOCKS_NT, replace(SPEC, steps=5), [3, 1, 0])
    counts = Counter(row for batch in model.seen for row in batch)
    assert set(counts.values()) == {2} and len(counts) == 5
    assert result.num_examples == 5


def test_the_examples_that_count_are_the_distinct_ones() -> None:
    assert train(Pull(), BLOCKS_NT, replace(SPEC, steps=1), [1]).num_examples == 2
    assert train(Pull(), BLOCKS_NT[:1], replace(SPEC, steps=3), [1]).num_examples == 1


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    def order(seed: list[int]) -> list[list[int]]:
        model = Pull()
        train(model, BLOCKS_NT, SPEC, seed)
        return model.seen

    torch.manual_seed(1)
    first = order([1, 7, 0])
    torch.manual_seed(2)
    assert order([1, 7, 0]) == first
    assert any(order([1, 7, dispatch]) != first for dispatch in (1, 2, 3))


def test_only_lora_dropout_is_in_training_mode() -> None:
    model = Pull()
    train(model, BLOCKS_NT, SPEC, [1])
    assert set(model.modes) == {(True, False)}


def test_no_step_begins_after_the_wall_budget() -> None:
    result = train(Pull(), BLOCKS_NT, replace(SPEC, steps=10**9, wall_budget_s=0.05), [1])
    assert 1 <= result.steps < 10**9


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"became (inf|nan) at local step \d+; lower train.learning-rate"):
        train(Pull(), BLOCKS_NT, replace(SPEC, learning_rate=1e30, steps=20), [1])


def test_the_held_out_loss_is_the_mean_over_all_blocks_whatever_the_batch() -> None:
    model = Pull()
    with torch.no_grad():
        model.weight.fill_(1.0)
    by_hand = sum(0.5 * (1.0 - token) ** 2 for token in range(5)) / 5
    for batch_size in (1, 2, 3, 5, 9):
        assert mean_loss(model, BLOCKS_NT, batch_size) == pytest.approx(by_hand, rel=1e-6)
