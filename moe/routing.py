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

from moe.blocks import find_blocks
from moe.kept import KeptExperts
from moe.objective import is_encoder_decoder, language_model_inputs
from moe.submodel import StreamedExperts


@torch.no_grad()
def routing_mass(model: PreTrainedModel, batches_BT: Iterable[Tensor]) -> NDArray[np.float64]:
    """Return the gate weight that the tokens give each expert, summed.

    Observed on the input of the experts modules, because router logits are not the choice: many
    families add a bias, choose within groups, or hash. Run in evaluation mode: some routers are
    random in training.

    Parameters
    ----------
    model : PreTrainedModel
        The full model, from `moe.submodel.load_full` or, without its memory, `load_streamed`.
    batches_BT : Iterable[Tensor]
        Token ids; no padding, every position counts.

    Returns
    -------
    NDArray ``[L, E]``
        Row by MoE layer, ascending; layers with fewer experts than others end in zeros.

    Raises
    ------
    ValueError
        If there is no batch, or the model is a sub-model.
    """
    modules = _expert_modules(model)
    mass_LE = torch.zeros(len(modules), max(count for _, count in modules), dtype=torch.float64)
    handles = [_listen(module, mass_LE[row]) for row, (module, _) in enumerate(modules)]
    was_training = model.training
    model.eval()
    num_batches = 0
    try:
        for batch_BT in batches_BT:
            _run(model, batch_BT.to(model.device))
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


def _run(model: PreTrainedModel, batch_BT: Tensor) -> None:
    inputs = language_model_inputs(model, batch_BT)
    if is_encoder_decoder(model):
        model(**inputs)
        return
    # The base model: the vocabulary's logits cost the most and are not needed.
    del inputs["labels"]
    model.base_model(**inputs)


def _expert_modules(model: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """Return each layer's experts module and how many experts it has, by layer."""
    streamed = [module for module in model.modules() if isinstance(module, StreamedExperts)]
    if streamed:
        return [(module, module.num_experts) for module in sorted(streamed, key=lambda module: module.layer)]
    if any(isinstance(module, KeptExperts) for module in model.modules()):
        raise ValueError(
            "a sub-model cannot tell which experts of the full model data would use; "
            "profile with moe.submodel.load_full or load_streamed"
        )
    return [(block.experts, block.num_experts) for block in find_blocks(model)]


def _listen(experts: nn.Module, mass_E: Tensor) -> Any:
    """Add every token's gate weights to ``mass_E`` (in place) from now on; return the hook's handle."""

    def add(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        _, choice_TK, weight_TK = (*args, *named.values())[:3]
        mass_E.index_add_(0, choice_TK.reshape(-1).cpu(), weight_TK.reshape(-1).to("cpu", torch.float64))

    return experts.register_forward_pre_hook(add, with_kwargs=True)
