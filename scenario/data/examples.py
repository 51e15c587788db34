"""Examples of a prompt and its response, or of a chat: read from rows, rendered, cut and packed.

An example travels as text, the JSON of its messages, so that it is dealt like any other text.

Shape letters: N blocks, T tokens of a block. Rows of a block ``[3, T]``: token ids, whether each is
predicted, and the number of the example it is of (0 = padding); see `moe.objective`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

LongExamples = Literal["truncate", "split"]
Piece = tuple[list[int], list[bool]]
"""Token ids, and whether each is predicted."""

PLAIN_NOTE = (
    "the tokenizer has no chat template: messages are put together with a line break between them, and the "
    "end-of-sequence token after each response"
)


def example_of_pair(prompt: str, response: str) -> str:
    """Return a prompt and its response as an example."""
    return _as_text([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])


def example_of_messages(value: Any) -> str:
    """Return a row's list of messages, or its JSON, as an example.

    Raises
    ------
    ValueError
        If it is none, lacks a response, or a message lacks its role or text; a clause without the row.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("holds messages that are no JSON") from None
    if not isinstance(value, list | tuple | np.ndarray) or not all(isinstance(item, dict) for item in value):
        raise ValueError("does not hold a list of messages")
    messages = []
    for item in value:
        role = item.get("role", item.get("from"))
        content = item.get("content", item.get("value"))
        if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            raise ValueError("has a message without a role or without text")
        messages.append({"role": _ROLES.get(role, role), "content": content.strip()})
    if not any(item["role"] == "assistant" for item in messages[1:]):
        raise ValueError("has no response: no message of the assistant after another one")
    return _as_text(messages)


_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}


def _as_text(messages: Sequence[dict[str, str]]) -> str:
    return json.dumps(messages, ensure_ascii=False)


def render(tokenizer: PreTrainedTokenizerBase, example: str) -> Piece:
    """Return the tokens of an example; what the assistant says is predicted, and the end of it.

    By the tokenizer's own chat template where it has one.

    Raises
    ------
    ValueError
        If the template fails, or puts a reply elsewhere than behind what comes before it; a clause.
    """
    tokens: list[int] = []
    predicted: list[bool] = []
    for text, is_predicted in _spans(tokenizer, json.loads(example)):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        tokens += ids
        predicted += [is_predicted] * len(ids)
    # Nothing is before the first token that could predict it.
    predicted[:1] = [False]
    if not any(predicted):
        raise ValueError("has no token to predict once it is in the tokenizer's chat template")
    return tokens, predicted


def _spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> Iterator[tuple[str, bool]]:
    """Yield the text of an example in pieces, and whether each is predicted."""
    if not getattr(tokenizer, "chat_template", None):
        for message in messages:
            is_reply = message["role"] == "assistant"
            yield message["content"] + (str(tokenizer.eos_token or "") if is_reply else "\n"), is_reply
        return
    done = ""
    for position, message in enumerate(messages):
        if position and message["role"] == "assistant":
            before = _by_template(tokenizer, messages[:position], prompts=True)
            through = _by_template(tokenizer, messages[: position + 1], prompts=False)
            if not (before.startswith(done) and through.startswith(before)):
                raise ValueError("is given another beginning by the chat template once a reply follows")
            yield before[len(done) :], False
            yield through[len(before) :], True
            done = through


def _by_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, prompts: bool
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompts)
        )
    except Exception as error:  # whatever the template's own code raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot be put into the tokenizer's chat template: {said}") from error


def cut(piece: Piece, length: int, rule: LongExamples) -> Iterator[Piece]:
    """Yield an example as pieces of at most ``length`` tokens.

    A long one's context keeps its end, in at most half of a piece if the response needs the rest.
    ``truncate`` keeps what then fits of the response; ``split`` goes on with it in further pieces, each
    behind the tokens before it. Every predicted token is then predicted exactly once.
    """
    tokens, predicted = piece
    if len(tokens) <= length:
        yield piece
        return
    start = predicted.index(True)
    while True:
        context = min(start, max(length // 2, length - (len(tokens) - start)))
        end = start + length - context
        yield (
            tokens[start - context : end],
            [False] * context + predicted[start:end],
        )
        if rule == "truncate" or True not in predicted[end:]:
            return
        start = end + predicted[end:].index(True)


def pack_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[str],
    *,
    sequence_length: int,
    max_examples: int = 0,
    rule: LongExamples,
    several: bool,
) -> NDArray[np.int64]:
    """Render, cut and pack examples into blocks.

    Parameters
    ----------
    sequence_length : int
        Tokens a block, >= 2.
    max_examples : int
        Keep at most this many blocks, the first; 0 keeps all.
    rule : {"truncate", "split"}
        As `cut`.
    several : bool
        Whether a block may hold several examples; the model must keep them apart.

    Returns
    -------
    NDArray[np.int64]
        ``[N, 3, T]``, N >= 1.

    Raises
    ------
    ValueError
        If an example cannot be rendered, or there is none.
    """
    blocks: list[NDArray[np.int64]] = []
    filled = sequence_length
    for example in examples:
        for tokens, predicted in cut(render(tokenizer, example), sequence_length, rule):
            if not several or filled + len(tokens) > sequence_length:
                if max_examples and len(blocks) == max_examples:
                    return np.stack(blocks)
                blocks.append(np.zeros((3, sequence_length), np.int64))
                filled = 0
            end = filled + len(tokens)
            blocks[-1][:, filled:end] = tokens, predicted, [blocks[-1][2].max() + 1] * len(tokens)
            filled = end
    if not blocks:
        raise ValueError("there is no example to pack")
    return np.stack(blocks)
