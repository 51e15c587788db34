"""Which experts a batch of data uses.

Shape letters: B sequences, T tokens of a sequence, K choices per token, L MoE layers, E experts.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.blocks import MoEBlock, find_blocks


@torch.no_grad()
def routing_mass(model: PreTrainedModel, batches_BT: Iterable[Tensor]) -> NDArray[np.float64]:
    """Return the gate weight that the tokens give each expert, summed.

    Observed on the input of the experts modules, because router logits are not the choice: many
    families add a bias, choose within groups, or hash. Run in evaluation mode: some routers are
    random in training.

    Parameters
    ----------
    model : PreTrainedModel
        The full model.
    batches_BT : Iterable[Tensor]
        Token ids; no padding, every position counts.

    Returns
    -------
    NDArray ``[L, E]``
        Row by MoE layer, ascending; layers with fewer experts than others end in zeros.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    blocks = find_blocks(model)
    mass_LE = torch.zeros(len(blocks), max(block.num_experts for block in blocks), dtype=torch.float64)
    handles = [listen(block, mass_LE[row]) for row, block in enumerate(blocks)]
    was_training = model.training
    model.eval()
    num_batches = 0
    try:
        for batch_BT in batches_BT:
            # The base model: the vocabulary's logits cost the most and are not needed.
            model.base_model(input_ids=batch_BT.to(model.device), use_cache=False)
            num_batches += 1
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    if num_batches == 0:
        raise ValueError(
            "routing mass needs at least one batch of tokens, got none; give the device some text"
        )
    return mass_LE.numpy()


def listen(block: MoEBlock, mass_E: Tensor) -> Any:
    """Add every token's gate weights to ``mass_E`` (in place) from now on; return the hook's handle."""

    def add(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        _, choice_TK, weight_TK = (*args, *named.values())[:3]
        mass_E.index_add_(0, choice_TK.reshape(-1).cpu(), weight_TK.reshape(-1).to("cpu", torch.float64))

    return block.experts.register_forward_pre_hook(add, with_kwargs=True)
