"""Greedy completions: the most likely next token, again and again, each from all that is there so far."""

import numpy as np
from numpy.typing import NDArray

from server.exhibits.completions import NEW_TOKENS, greedy, parted


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


def test_of_plain_text_the_beginning_is_at_most_half_of_a_block() -> None:
    beginning, rest = parted(np.arange(10))
    assert beginning.tolist() == [0, 1, 2, 3, 4] and rest.tolist() == [5, 6, 7, 8, 9]
    beginning, rest = parted(np.arange(100))
    assert len(beginning) == 24 and rest.tolist() == list(range(24, 48))


def test_of_an_example_the_prompt_is_completed_and_the_response_is_what_the_data_says() -> None:
    tokens = np.array([5, 6, 7, 8, 9, 0, 0])
    predicted, there = np.array([0, 0, 1, 1, 1, 0, 0]), np.array([1, 1, 1, 1, 1, 0, 0])
    beginning, rest = parted(np.stack([tokens, predicted, there]))
    assert beginning.tolist() == [5, 6] and rest.tolist() == [7, 8, 9]


def test_of_a_chat_the_first_reply_is_completed_and_a_full_block_ends_with_it() -> None:
    chat = np.array([[1, 2, 3, 4, 5], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
    assert [part.tolist() for part in parted(chat)] == [[1], [2]]
    full = np.array([[1] * 60, [0] * 2 + [1] * 58, [1] * 60])
    assert [len(part) for part in parted(full)] == [2, NEW_TOKENS]
