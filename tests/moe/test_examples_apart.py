"""Blocks of examples: what a model loses on them is what it loses on each example alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.tiny_models import FAMILIES, MUST_PASS, VOCABULARY
from moe.examples_apart import keeps_examples_apart
from moe.objective import mean_loss
from moe.submodel.load import load_full

NO_ATTENTION_MASK = ("granitemoehybrid", "jamba", "lfm2_moe", "qwen3_next")
# gpt_oss makes its masks without the positions, glm4v_moe wants three of each token.
SEES_THROUGH = (*NO_ATTENTION_MASK, "gpt_oss", "glm4v_moe", "switch_transformers")


def block(length: int, *lengths: tuple[int, int]) -> NDArray[np.int64]:
    """Return a block ``[3, length]`` of examples, each of so many tokens of prompt and of response."""
    rows, draw, at = np.zeros((3, length), np.int64), np.random.default_rng(len(lengths)), 0
    for number, (prompt, response) in enumerate(lengths, start=1):
        end = at + prompt + response
        rows[0, at:end] = np.random.default_rng(number).integers(1, VOCABULARY, end - at)
        rows[1, at + prompt : end] = 1
        rows[2, at:end] = number
        at = end
    rows[0, at:] = draw.integers(1, VOCABULARY, length - at)  # padding may be anything
    return rows


def alone(number: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    own = rows[:, rows[2] == number].copy()
    own[2] = 1
    return own


@pytest.mark.parametrize("family", [family for family in MUST_PASS if family not in SEES_THROUGH])
def test_packed_examples_lose_what_each_loses_alone(tiny: Callable[[str], Path], family: str) -> None:
    model = load_full(tiny(family))
    rows = block(20, (5, 3), (4, 6))
    assert keeps_examples_apart(model)
    losses = [mean_loss(model, alone(number, rows)[None], 1) for number in (1, 2)]
    assert mean_loss(model, rows[None], 1) == pytest.approx((3 * losses[0] + 6 * losses[1]) / 9, rel=1e-4)


@pytest.mark.parametrize("family", sorted({*MUST_PASS, *NO_ATTENTION_MASK}))
def test_padding_changes_nothing(tiny: Callable[[str], Path], family: str) -> None:
    model = load_full(tiny(family))
    if family == "switch_transformers":
        pytest.skip("its experts are full after two tokens, whoever these are of")
    rows = block(16, (5, 6))
    assert mean_loss(model, rows[None], 1) == pytest.approx(mean_loss(model, rows[None, :, :11], 1), rel=1e-4)


@pytest.mark.parametrize("family", SEES_THROUGH)
def test_a_family_that_sees_through_positions_is_found_out(tiny: Callable[[str], Path], family: str) -> None:
    assert family in FAMILIES
    assert not keeps_examples_apart(load_full(tiny(family)))


def test_only_the_response_counts_and_by_its_tokens(tiny: Callable[[str], Path]) -> None:
    model = load_full(tiny("olmoe"))
    rows = np.stack([block(12, (5, 3)), block(12, (2, 9))])
    own = [mean_loss(model, rows[[at]], 1) for at in (0, 1)]
    assert mean_loss(model, rows, 2) == pytest.approx((3 * own[0] + 9 * own[1]) / 12, rel=1e-5)
    assert mean_loss(model, rows, 1) == pytest.approx(mean_loss(model, rows, 2), rel=1e-5)
    tokens = torch.from_numpy(rows[0, 0, :8])
    with torch.no_grad():
        scores = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
    by_hand = -sum(scores[at - 1, tokens[at]] for at in (5, 6, 7)) / 3
    assert own[0] == pytest.approx(float(by_hand), rel=1e-5)


def test_an_encoder_reads_the_prompt_and_a_decoder_says_the_response(tiny: Callable[[str], Path]) -> None:
    model = load_full(tiny("switch_transformers"))
    rows = np.stack([block(12, (5, 3)), block(12, (2, 9))])
    with torch.no_grad():
        by_hand = model(
            input_ids=torch.from_numpy(rows[:1, 0, :5]), labels=torch.from_numpy(rows[:1, 0, 5:8])
        ).loss
    assert mean_loss(model, rows[:1], 1) == pytest.approx(float(by_hand), rel=1e-5)
