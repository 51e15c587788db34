"""Words: what each cluster's model says after a held-out beginning or prompt, before and after tuning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moe.experts import ExpertArrays, ExpertId
from moe.half_precision import half_products
from moe.objective import is_encoder_decoder, token_batch
from server.record.scene import Completion

BEGINNING_TOKENS, NEW_TOKENS = 24, 24
"""At most half of a held-out block is the beginning."""
MOST_CLUSTERS = 16


class Speakers(Protocol):
    """Whoever has the models, the held-out text and the tokenizer."""

    def heldout(self, cluster: str) -> NDArray[np.int64]:
        """Return held-out blocks of a cluster, token ids ``[N, T]``, or of one example each ``[N, 3, T]``."""

    def text(self, tokens: NDArray[np.int64]) -> str:
        """Return token ids as people read them."""

    def model_of(self, experts: Sequence[ExpertId], values: ExpertArrays) -> nn.Module:
        """Return the sub-model of these experts, or for none the merged model, with these values."""


def completions(
    speakers: Speakers,
    experts_of: Mapping[str, Sequence[ExpertId]],
    initial: ExpertArrays,
    values: ExpertArrays,
    *,
    count: int,
) -> tuple[Completion, ...]:
    """Return greedy completions of each of the first clusters, before and after tuning.

    Nothing for encoder-decoders, whose beginnings are another task.

    Parameters
    ----------
    speakers : Speakers
        Models and text.
    experts_of : Mapping[str, Sequence[ExpertId]]
        Experts of each cluster, whose own sub-model speaks; empty ones leave it to the merged model.
    initial, values : ExpertArrays
        Before and after.
    count : int
        Of each cluster; 0: none.
    """
    found: list[Completion] = []
    for cluster, experts in list(experts_of.items())[:MOST_CLUSTERS] if count else ():
        parts = [parted(block) for block in speakers.heldout(cluster)[:count]]
        said = []
        for arrays in (initial, values):
            model = speakers.model_of(experts, arrays)
            if is_encoder_decoder(model):
                return ()
            last = _last_logits(model)
            said.append([greedy(last, beginning[None], len(rest))[0] for beginning, rest in parts])
        for (beginning_T, rest_T), *words in zip(parts, *said, strict=True):
            row = (beginning_T, rest_T, *words)
            beginning, original, before, after = map(speakers.text, row)
            found.append(
                Completion(
                    cluster=cluster, beginning=beginning, original=original, before=before, after=after
                )
            )
    return tuple(found)


def parted(block: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the beginning of a block and what comes next: of an example its prompt and its response.

    Parameters
    ----------
    block : NDArray[np.int64]
        Token ids ``[T]``, or of one example ``[3, T]``: token ids, whether each is predicted, whether it is
        there.
    """
    if block.ndim == 1:
        length = min(BEGINNING_TOKENS, len(block) // 2)
        return block[:length], block[length : length + NEW_TOKENS]
    tokens_T, predicted_T, _ = block
    start = int(predicted_T.argmax())
    length = int((predicted_T[start:] == 0).argmax()) or len(tokens_T) - start
    return tokens_T[:start], tokens_T[start : start + min(length, NEW_TOKENS)]


def _last_logits(model: nn.Module) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    @torch.no_grad()
    def last(tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        model.eval()
        with half_products(model):
            logits = model(input_ids=token_batch(model, tokens_BT), use_cache=False).logits
        return cast(NDArray[np.float32], logits[:, -1].float().cpu().numpy())

    return last


def greedy(
    last_logits: Callable[[NDArray[np.int64]], NDArray[np.float32]], tokens_BT: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return the ``count`` most likely next tokens after each row, one at a time.

    No cache of keys: not every family's works under a sub-model, and these are few tokens.

    Parameters
    ----------
    last_logits : callable
        Token ids ``[B, T]`` -> logits ``[B, V]`` of the next token.
    """
    tokens = tokens_BT
    for _ in range(count):
        tokens = np.concatenate([tokens, last_logits(tokens).argmax(-1)[:, None].astype(np.int64)], axis=1)
    return tokens[:, tokens_BT.shape[1] :]
