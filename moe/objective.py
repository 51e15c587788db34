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
        Token ids, no padding; T >= 2.

    Raises
    ------
    ValueError
        If the blocks are too short to predict anything.
    """
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
            total += language_model_loss(model, tokens_BT).item() * len(tokens_BT)
    return total / len(blocks_NT)


def token_batch(model: nn.Module, blocks_BT: NDArray[np.int64]) -> Tensor:
    """Return a batch of token ids where the model is."""
    return torch.from_numpy(blocks_BT).to(next(model.parameters()).device)
