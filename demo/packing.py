"""Texts to token blocks of one length; what devices train on and what the demo model is made from."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


def pack(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    sequence_length: int,
    max_examples: int = 0,
    more: Iterable[str] = (),
) -> NDArray[np.int64]:
    """Tokenise texts, join them with end-of-sequence tokens and cut the stream into full blocks.

    Parameters
    ----------
    sequence_length : int
        Tokens a block (T), >= 2.
    max_examples : int
        Keep at most this many blocks, the first; 0 keeps all.
    more : Iterable[str]
        Further texts, taken one by one only while all before them do not fill one block.

    Returns
    -------
    NDArray[np.int64]
        ``[N, T]`` with N >= 1; the last incomplete block is dropped.

    Raises
    ------
    ValueError
        If the texts do not fill one block, the tokenizer has no end-of-sequence token, or a bound is
        out of range.
    """
    if sequence_length < 2 or max_examples < 0:
        raise ValueError(
            f"sequence_length must be >= 2 and max_examples >= 0, got {sequence_length} and {max_examples}"
        )
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no end-of-sequence token to put between texts; set its eos_token")
    stream: list[int] = []
    for text in texts:
        stream.extend(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        stream.append(end)
        if max_examples and len(stream) >= max_examples * sequence_length:
            break
    further = iter(more)
    while len(stream) < sequence_length and (taken := next(further, None)) is not None:
        stream.extend(tokenizer(taken, add_special_tokens=False, verbose=False)["input_ids"])
        stream.append(end)
    num_blocks = len(stream) // sequence_length
    if num_blocks == 0:
        raise ValueError(
            f"{len(texts)} texts make {len(stream)} tokens, less than one block of {sequence_length}:"
            " lower the sequence length, or give this device more text (fewer devices, a larger data share)"
        )
    if max_examples:
        num_blocks = min(num_blocks, max_examples)
    return np.asarray(stream[: num_blocks * sequence_length], dtype=np.int64).reshape(
        num_blocks, sequence_length
    )
