"""What a block of tokens asks of a language model: the one place that tells decoders from encoder-decoders.

Shape letters: N blocks held, B blocks of a batch, T tokens of a block.
"""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moe.half_precision import half_products


def language_model_inputs(model: nn.Module, tokens_BT: Tensor) -> dict[str, Any]:
    """Return the arguments that make a model's forward pass see a block of plain text.

    A decoder reads the whole block and predicts each next token of it. An encoder-decoder reads the
    first half and predicts the second: prefix language modelling, Raffel et al. 2020,
    arXiv 1910.10683, section 3.2.3 (there the point of the cut is random; here it is the middle, so
    that the same block always gives the same loss).

    Parameters
    ----------
    model : nn.Module
        A model of transformers, through any PEFT wrapping.
    tokens_BT : Tensor
        Token ids, no padding; T >= 2. Or blocks of examples ``[B, 3, T]``: token ids, whether each is
        predicted, and the number of its example within the block (0 = padding, always last).

    Raises
    ------
    ValueError
        If the blocks are too short to predict anything.
    """
    if tokens_BT.ndim == 3:
        return _example_inputs(model, tokens_BT)
    length = tokens_BT.shape[1]
    if length < 2:
        raise ValueError(f"a block needs at least 2 tokens to predict one from another, got {length}")
    if not is_encoder_decoder(model):
        return {"input_ids": tokens_BT, "labels": tokens_BT, "use_cache": False}
    return {
        "input_ids": tokens_BT[:, : length // 2],
        # Made contiguous: transformers flattens labels with a view.
        "labels": tokens_BT[:, length // 2 :].contiguous(),
        "use_cache": False,
    }


_IGNORED = -100
"""The label that transformers, and torch's cross-entropy, leave out."""


def _example_inputs(model: nn.Module, rows_B3T: Tensor) -> dict[str, Any]:
    tokens_BT, predicted_BT, example_BT = rows_B3T.unbind(dim=1)
    if is_encoder_decoder(model):
        context_BT = (example_BT > 0) & (predicted_BT == 0)
        prompt_BT, seen_BT = _left(tokens_BT, context_BT, 0)
        labels_BT, _ = _left(tokens_BT, predicted_BT > 0, _IGNORED)
        return {"input_ids": prompt_BT, "attention_mask": seen_BT, "labels": labels_BT, "use_cache": False}
    inputs = {
        "input_ids": tokens_BT,
        "labels": tokens_BT.where(predicted_BT > 0, _IGNORED),
        "use_cache": False,
    }
    if example_BT.max() > 1:
        # From positions that start anew transformers makes masks under which no example sees another.
        index_T = torch.arange(example_BT.shape[1], device=example_BT.device)
        is_start_BT = example_BT.diff(dim=1, prepend=example_BT[:, :1] - 1) != 0
        inputs["position_ids"] = index_T - (index_T * is_start_BT).cummax(dim=1).values
    return inputs


def _left(tokens_BT: Tensor, chosen_BT: Tensor, filler: int) -> tuple[Tensor, Tensor]:
    """Return the chosen tokens of each row from the left on, filled up, and where they are."""
    order_BT = chosen_BT.long().argsort(dim=1, descending=True, stable=True)
    longest = max(1, int(chosen_BT.sum(dim=1).max()))
    there_BT = chosen_BT.gather(1, order_BT)[:, :longest]
    return tokens_BT.gather(1, order_BT)[:, :longest].where(there_BT, filler), there_BT.long()


def num_predicted(tokens_BT: Tensor) -> int:
    """Return the weight of blocks in a mean over predicted tokens.

    Of examples their number; blocks of plain text all predict as many, so there it is that of the blocks.
    """
    if tokens_BT.ndim == 3:
        return int(tokens_BT[:, 1].sum())
    return len(tokens_BT)


def language_model_loss(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Return the mean loss per predicted token, in nats; see `language_model_inputs`."""
    inputs = language_model_inputs(model, tokens_BT)
    output = model(**inputs)
    if output.loss.dtype == torch.float32 or not is_encoder_decoder(model):
        return cast(Tensor, output.loss)
    # switch_transformers makes its loss in the model's type: of bfloat16, two digits are right.
    return cross_entropy(output.logits.flatten(0, 1).float(), inputs["labels"].flatten())


def task_type(model: nn.Module) -> str:
    """Return PEFT's name for what the model does."""
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM"


def is_encoder_decoder(model: nn.Module) -> bool:
    """Tell whether a model of transformers has an encoder beside its decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


@torch.no_grad()
def mean_loss(model: nn.Module, blocks_NT: NDArray[np.int64], batch_size: int) -> float:
    """Return the mean loss per predicted token in nats over all blocks."""
    model.eval()
    total = 0.0
    for start in range(0, len(blocks_NT), batch_size):
        tokens_BT = token_batch(model, blocks_NT[start : start + batch_size])
        with half_products(model):
            total += language_model_loss(model, tokens_BT).item() * num_predicted(tokens_BT)
    return total / num_predicted(torch.from_numpy(blocks_NT))


@torch.no_grad()
def summed_losses(model: nn.Module, blocks_N3T: NDArray[np.int64], batch_size: int) -> NDArray[np.float64]:
    """Return of each block of one example the loss summed over its predicted tokens, nats ``[N]``."""
    model.eval()
    found: list[NDArray[np.float64]] = []
    for start in range(0, len(blocks_N3T), batch_size):
        inputs = language_model_inputs(model, token_batch(model, blocks_N3T[start : start + batch_size]))
        with half_products(model):
            logits_BTV = model(**inputs).logits.float()
        labels_BT = inputs["labels"]
        if not is_encoder_decoder(model):
            logits_BTV, labels_BT = logits_BTV[:, :-1], labels_BT[:, 1:]
        each_BT = cross_entropy(
            logits_BTV.transpose(1, 2), labels_BT, ignore_index=_IGNORED, reduction="none"
        )
        found.append(each_BT.double().sum(dim=1).cpu().numpy())
    return np.concatenate(found)


def token_batch(model: nn.Module, blocks_BT: NDArray[np.int64]) -> Tensor:
    """Return a batch of token ids where the model is."""
    return torch.from_numpy(blocks_BT).to(next(model.parameters()).device)
