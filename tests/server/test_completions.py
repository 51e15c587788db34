"""Greedy completions: the most likely next token, again and again, each from all that is there so far."""

import numpy as np
from numpy.typing import NDArray

from server.exhibits.completions import greedy


def counting(tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
    """Favour the sum of a row's last two tokens, modulo 7: a rule that needs what was said before."""
    logits = np.zeros((len(tokens_BT), 7), np.float32)
    logits[np.arange(len(tokens_BT)), tokens_BT[:, -2:].sum(1) % 7] = 1.0
    return logits


def test_each_token_is_the_likeliest_after_all_before_it() -> None:
    said = greedy(counting, np.array([[0, 1], [2, 2]]), 5)
    assert said.tolist() == [[1, 2, 3, 5, 1], [4, 6, 3, 2, 5]]


def test_nothing_is_said_where_no_token_is_asked_for() -> None:
    assert greedy(counting, np.array([[0, 1]]), 0).shape == (1, 0)
