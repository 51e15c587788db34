"""Held-out examples as questions with the same answers to choose from, so that accuracy can be told.

Shape letters: Q questions, A answers, T tokens of a block.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from scenario.data.examples import cut, render

MOST_ANSWERS = 200
"""BANKING77 has 77 intents, CLINC150 150."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Questions, each with every answer in turn.

    Parameters
    ----------
    blocks : NDArray[np.int64]
        ``[Q, A, 3, T]``: token ids, whether each is predicted (those of the answer), whether it is there.
    right : NDArray[np.int64]
        ``[Q]``: which answer is the one that the data gives.
    """

    blocks: NDArray[np.int64]
    right: NDArray[np.int64]


def answers_of(examples: Iterable[str]) -> tuple[str, ...]:
    """Return the different last responses of examples, sorted.

    Raises
    ------
    ValueError
        If there are too few or too many to choose from.
    """
    answers = sorted({_answer(example) for example in examples})
    if not 2 <= len(answers) <= MOST_ANSWERS:
        raise ValueError(
            f"evaluate.choices needs data with 2 to {MOST_ANSWERS} different responses to choose from, got "
            f"{len(answers)}; leave evaluate.choices at 0 where responses are free text"
        )
    return tuple(answers)


def questions_of(
    examples: Sequence[str],
    answers: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
) -> Questions:
    """Put every answer in the place of each example's last response.

    Parameters
    ----------
    examples : sequence of str
        Of `scenario.data.examples`.
    answers : sequence of str
        Those of the examples among them.
    sequence_length : int
        Tokens a block; a longer context keeps its end, as in training.
    """
    asked = [[_with_answer(example, answer) for answer in answers] for example in examples]
    blocks = [[_block(*render(tokenizer, one), sequence_length) for one in of_one] for of_one in asked]
    right = [answers.index(_answer(example)) for example in examples]
    return Questions(blocks=np.array(blocks), right=np.array(right))


def _through_last_reply(example: str) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = json.loads(example)
    while messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def _answer(example: str) -> str:
    return _through_last_reply(example)[-1]["content"]


def _with_answer(example: str, answer: str) -> str:
    *before, _ = _through_last_reply(example)
    return json.dumps([*before, {"role": "assistant", "content": answer}], ensure_ascii=False)


def _block(tokens: list[int], predicted: list[bool], length: int) -> NDArray[np.int64]:
    """Return one block in which the last reply alone is predicted."""
    before = len(predicted) - predicted[::-1].index(True)
    while before and predicted[before - 1]:
        before -= 1
    asked = [is_predicted and at >= before for at, is_predicted in enumerate(predicted)]
    tokens, asked = next(cut((tokens, asked), length, "truncate"))
    block = np.zeros((3, length), np.int64)
    block[:, : len(tokens)] = tokens, asked, [1] * len(tokens)
    return block
