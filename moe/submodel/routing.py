"""Which experts a batch of data uses.

Shape letters: B sequences, T tokens of a sequence, K choices per token, L MoE layers, E experts.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from moe.families.blocks import MoEBlock, find_blocks
from moe.objective import is_encoder_decoder, language_model_inputs
from moe.submodel.expert_subset import ExpertSubset, expert_subsets
from moe.submodel.whole_layer import whole_layers


def batches_of(rows: NDArray[np.int64], size: int) -> tuple[Tensor, ...]:
    """Return token blocks ``[N, T]``, or of examples ``[N, 3, T]``, as batches that routing is judged by."""
    rows_NT = torch.from_numpy(rows)
    if rows_NT.ndim == 3:
        # One by one, without their padding, which would count too.
        return tuple(block[None, :, : int((block[2] > 0).sum())] for block in rows_NT)
    return rows_NT.split(size)


@torch.no_grad()
def routing_mass(model: PreTrainedModel, batches_BT: Iterable[Tensor]) -> NDArray[np.float64]:
    """Return the gate weight that the tokens give each expert, summed.

    Observed on the input of the experts modules, or where a family calls them in its own way on what its
    router gives, because router logits are not the choice: many families add a bias, choose within
    groups, or hash. Run in evaluation mode: some routers are
    random in training.

    Parameters
    ----------
    model : PreTrainedModel
        The full model, from `moe.submodel.load.load_full` or, without its memory, `load_streamed`; or its
        shared part with stand-ins, from `moe.standin.load.load_with_stand_ins`.
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
    blocks, modules = _observed(model)
    return _mass(model, batches_BT, blocks, modules)


@torch.no_grad()
def kept_share(model: nn.Module, batches_BT: Iterable[Tensor]) -> float:
    """Return the share of the gate weight that falls on the experts a sub-model keeps, mean over layers.

    Under the routing that its own layers lead to, before anything is done about absent experts. A layer that
    no token reached is left out.

    Parameters
    ----------
    model : nn.Module
        A sub-model, with adapters attached or without.
    batches_BT : Iterable[Tensor]
        As for `routing_mass`.

    Raises
    ------
    ValueError
        If there is no batch, or no token reaches any layer.
    """
    subsets = expert_subsets(model)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    mass_LE = _mass(cast(PreTrainedModel, inner), batches_BT, [module.block for module in subsets], subsets)
    shares = [
        mass_E[list(module.kept)].sum() / mass_E.sum()
        for module, mass_E in zip(subsets, mass_LE, strict=True)
        if mass_E.sum() > 0
    ]
    if not shares:
        raise ValueError("no token reached any layer with experts; give the device some text")
    return float(np.mean(shares))


def _mass(
    model: PreTrainedModel,
    batches_BT: Iterable[Tensor],
    blocks: Sequence[MoEBlock],
    modules: Sequence[nn.Module],
) -> NDArray[np.float64]:
    """Return the gate weight ``[L, E]`` that passes the modules at which each block's choices are seen."""
    mass_LE = torch.zeros(len(blocks), max(block.num_experts for block in blocks), dtype=torch.float64)
    handles = [
        _listen(block, module, mass_LE[row])
        for row, (block, module) in enumerate(zip(blocks, modules, strict=True))
    ]
    was_training = model.training
    model.eval()
    num_batches = 0
    # No router comes after the last layer's experts: what they give is never looked at.
    last = [] if is_encoder_decoder(model) else whole_layers(model)[-1:]
    for experts in last:
        experts.is_skipped = True
    try:
        for batch_BT in batches_BT:
            run_to_routers(model, batch_BT.to(model.device))
            num_batches += 1
    finally:
        for handle in handles:
            handle.remove()
        for experts in last:
            experts.is_skipped = False
        model.train(was_training)
    if num_batches == 0:
        raise ValueError(
            "routing mass needs at least one batch of tokens, got none; give the device some text"
        )
    return mass_LE.numpy()


def run_to_routers(model: PreTrainedModel, batch_BT: Tensor) -> None:
    """Run a model for what can be observed of its routing, at no more cost than that takes."""
    inputs = language_model_inputs(model, batch_BT)
    if is_encoder_decoder(model):
        model(**inputs)
        return
    # The base model: the vocabulary's logits cost the most and are not needed.
    del inputs["labels"]
    model.base_model(**inputs)


def _observed(model: PreTrainedModel) -> tuple[Sequence[MoEBlock], Sequence[nn.Module]]:
    """Return the blocks by layer, and of each the module at which its tokens' choices can be seen."""
    whole = whole_layers(model)
    if whole:
        return [module.block for module in whole], whole
    if any(isinstance(module, ExpertSubset) for module in model.modules()):
        raise ValueError(
            "a sub-model cannot tell which experts of the full model data would use; "
            "profile with moe.submodel.load.load_full or load_streamed"
        )
    blocks = find_blocks(model)
    return blocks, [block.router if block.family.is_block_replaced else block.experts for block in blocks]


def _listen(block: MoEBlock, module: nn.Module, mass_E: Tensor) -> RemovableHandle:
    """Add every token's gate weights to ``mass_E`` (in place) from now on."""

    def add(choice_TK: Tensor, weight_TK: Tensor) -> None:
        # Identity experts are nobody's: choices beyond the real ones are not counted.
        is_real = choice_TK < block.num_experts
        weights = weight_TK[is_real].to("cpu", torch.float64)
        mass_E.index_add_(0, choice_TK[is_real].cpu(), weights)

    def before(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        _, choice_TK, weight_TK = (*args, *named.values())[:3]
        add(choice_TK, weight_TK)

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        routing = block.family.route(output)
        add(routing.choice, routing.weight)

    if module is block.router:
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)
