"""Whether a model can be given several examples in one block without any seeing another."""

from typing import Any

import torch
from torch import nn

from moe.half_precision import half_products
from moe.objective import is_encoder_decoder, language_model_inputs

_LENGTH = 6


@torch.no_grad()
def keeps_examples_apart(model: nn.Module) -> bool:
    """Tell whether positions that start anew make a model's examples of one block blind to each other.

    Tried on it, not looked up: attention masks of transformers know such positions, state-space and
    linear-attention layers mostly do not, and neither do families that make their masks themselves.
    """
    if is_encoder_decoder(model):
        return False
    draw = torch.Generator().manual_seed(0)
    get_embeddings: Any = model.get_input_embeddings
    size = int(get_embeddings().weight.shape[0])
    tokens_2T = torch.randint(1, size, (2, _LENGTH), generator=draw)
    device = next(model.parameters()).device

    def last(tokens_T: torch.Tensor, example_T: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([tokens_T, torch.ones_like(tokens_T), example_T])[None].to(device)
        inputs = language_model_inputs(model, rows)
        del inputs["labels"]
        with half_products(model):
            logits: torch.Tensor = model(**inputs).logits[0, -_LENGTH:]
        return logits.float()

    both_T, ones_T = tokens_2T.flatten(), torch.ones(_LENGTH, dtype=torch.long)
    was_training = model.training
    model.eval()
    try:
        alone = last(tokens_2T[1], ones_T)
        packed = last(both_T, torch.cat([ones_T, ones_T + 1]))
        joined = last(both_T, torch.cat([ones_T, ones_T]))
    except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no positions, or in another form
        return False
    finally:
        model.train(was_training)
    # A tenth of what seeing the other makes: half precision rounds.
    return bool((packed - alone).abs().mean() < 0.1 * (joined - alone).abs().mean())
