"""Adapters on what all experts of a layer share, where that is tuned too, and their way into the model.

Every sub-model has all of them, so every cluster trains them, and the server averages. Their keys are those
of an expert with the index `SHARED`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from moe.disk.shards import Part
from moe.disk.storage import Storage
from moe.experts import SHARED, ExpertArrays, ExpertId, Tuning
from moe.families.blocks import MoEBlock
from moe.families.shared_linears import SharedLinear, shared_linears
from moe.submodel.expert_subset import expert_subsets
from moe.tuning.lora_settings import lora_settings
from moe.tuning.merge import lora_change

LinearChange = tuple[str, Tensor]
"""Name of a linear layer's weight in the model, and its change ``[out, in]``, float32."""


def adapt_shared(model: nn.Module, tuning: Tuning) -> None:
    """Put PEFT's adapters on the shared linear layers of a sub-model that are tuned.

    Not as a part of the model: of names in a model, PEFT 0.21 takes those that it knows from fused experts
    (``gate_proj``) for these, wherever they are.
    """
    blocks = [module.block for module in expert_subsets(model)]
    linears = {str(at): one for at, one in enumerate(_tuned_linears(model, blocks, tuning))}
    if not linears:
        return
    owners = {module: (owner, name) for owner in model.modules() for name, module in owner.named_children()}
    bare = nn.ModuleDict({number: one.module for number, one in linears.items()})
    # PEFT asks for a parameter, and layers in the file's few bits have none.
    bare.register_parameter("first", nn.Parameter(torch.empty(0), requires_grad=False))
    config = LoraConfig(
        lora_dropout=tuning.lora_dropout, **lora_settings(tuning), target_modules=list(linears)
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, bare)
    for number, one in linears.items():
        owner, name = owners[one.module]
        adapted = bare[number]
        for parameter in adapted.parameters():
            # In float32, as PEFT's own way to adapt a model has it: half precision would lose small steps.
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        owner.register_module(name, adapted)


def adapted_linears(model: nn.Module) -> Iterator[tuple[int, str, LoraLayer]]:
    """Yield layer, name and PEFT's layer of the shared linear layers that have an adapter."""
    for one in shared_linears(model, [module.block for module in expert_subsets(model)]):
        if isinstance(one.module, LoraLayer):
            yield one.layer, one.name, one.module


def check_shared(storage: Storage, tuning: Tuning) -> None:
    """Refuse to tune shared parts whose change could not be taken home.

    Raises
    ------
    ValueError
        If the checkpoint stores such a weight otherwise than the model has it.
    """
    for target in shared_weights(storage, tuning):
        try:
            storage.stored_name(target)
        except ValueError as error:
            raise ValueError(f"train.parts = {', '.join(tuning.parts)}: {error}; leave them out") from None


def linear_changes(storage: Storage, arrays: ExpertArrays, tuning: Tuning) -> Iterator[LinearChange]:
    """Yield the shared weights that the arrays change."""
    for target, (layer, name, shape) in shared_weights(storage, tuning).items():
        change = lora_change(arrays, tuning, ExpertId(layer, SHARED), name, shape[1])
        if change is not None:
            yield target, change


def changed_linears(
    storage: Storage, changes: Iterable[LinearChange]
) -> Iterator[tuple[str, Part | None, Tensor]]:
    """Yield disk name, None for the whole tensor, and new value in float32 of the changed shared weights.

    Raises
    ------
    ValueError
        If the checkpoint does not store a weight as it is.
    """
    for target, change in changes:
        name = storage.stored_name(target)
        yield name, None, storage.checkpoint.read_joined([name], None).float() + change


class SharedWeights:
    """The shared weights of the full model that are tuned, and what they were.

    Parameters
    ----------
    model : Module
        The full model, with weights.
    storage : Storage
        Its checkpoint.
    tuning : Tuning
        What is tuned.
    """

    def __init__(self, model: nn.Module, storage: Storage, tuning: Tuning) -> None:
        self._storage, self._tuning = storage, tuning
        self._held = {target: model.get_parameter(target) for target in shared_weights(storage, tuning)}
        self._base = {target: weight.detach().clone() for target, weight in self._held.items()}

    def set(self, arrays: ExpertArrays) -> None:
        """Make them the base with these arrays."""
        changes = dict(linear_changes(self._storage, arrays, self._tuning))
        for target, weight in self._held.items():
            base, change = self._base[target], changes.get(target)
            weight.data.copy_(base if change is None else base.float() + change.to(base.device))


class SharedWeight(NamedTuple):
    """Decoder layer, name of a linear layer in it, and ``(out_features, in_features)``."""

    layer: int
    name: str
    shape: tuple[int, int]


def shared_weights(storage: Storage, tuning: Tuning) -> Mapping[str, SharedWeight]:
    """Return the weights of the tuned shared linear layers, by their names in the model."""
    return {
        f"{one.path}.weight": SharedWeight(one.layer, one.name, _shape(one.module))
        for one in _tuned_linears(storage.model, storage.blocks.values(), tuning)
    }


def _tuned_linears(model: nn.Module, blocks: Iterable[MoEBlock], tuning: Tuning) -> list[SharedLinear]:
    found = shared_linears(model, blocks) if tuning.shared_parts else ()
    return [one for one in found if one.part in tuning.shared_parts and tuning.covers(one.layer)]


def _shape(linear: nn.Module) -> tuple[int, int]:
    rows, columns = linear.get_parameter("weight").shape
    return rows, columns
