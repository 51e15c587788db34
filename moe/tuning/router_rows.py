"""Tune the rows of a router that choose the kept experts; the rest of the router stays as it is.

Rows of different experts are different numbers, so clusters stay disjoint here too. What is tuned, sent
and merged is the *change* of a row, in float32: it starts at zero, its mean is the mean of the rows, and
the base is rounded once.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from moe.disk.shards import Part
from moe.disk.storage import Storage
from moe.experts import ExpertArrays, ParameterKey
from moe.factors import ROUTER_ROW
from moe.families.router_weight import NO_ROWS, weight_name
from moe.submodel.expert_subset import ExpertSubset


class RouterRows(nn.Module):
    """A router's weight with the changes of some rows added; untouched, it is the same bits.

    Parameters
    ----------
    kept : Sequence[int]
        Which rows; at least one.
    width : int
        Numbers in a row.
    """

    def __init__(self, kept: Sequence[int], width: int) -> None:
        super().__init__()
        self.kept = tuple(kept)
        self.changes = nn.ParameterDict({str(index): nn.Parameter(torch.zeros(width)) for index in kept})

    def forward(self, weight_EH: Tensor) -> Tensor:
        """Return the weight ``[E, H]`` with the kept rows changed, in its own type."""
        kept_N = torch.tensor(self.kept, device=weight_EH.device)
        change_NH = torch.stack([self.changes[str(index)] for index in self.kept])
        rows_NH = weight_EH[kept_N].float() + change_NH
        return weight_EH.index_copy(0, kept_N, rows_NH.to(weight_EH.dtype))


def add_rows(module: ExpertSubset) -> None:
    """Make the router rows of a sub-model's kept experts trainable.

    Raises
    ------
    ValueError
        If the router has no weight that is one row for each expert.
    """
    if not module.kept:
        return
    name = weight_name(module.block.router, module.num_experts)
    if name is None:
        raise ValueError(f"the router of layer {module.layer} {NO_ROWS}")
    path, _, name = name.rpartition(".")
    owner = module.block.router.get_submodule(path)
    rows = RouterRows(module.kept, owner.get_parameter(name).shape[1])
    parametrize.register_parametrization(owner, name, rows.to(owner.get_parameter(name).device))


def row_parameters(module: ExpertSubset) -> dict[ParameterKey, nn.Parameter]:
    """Return the changes of a layer's router rows by key; empty where they are not tuned."""
    return {
        ParameterKey(module.layer, index, ROUTER_ROW): cast(nn.Parameter, rows.changes[str(index)])
        for rows in module.block.router.modules()
        if isinstance(rows, RouterRows)
        for index in rows.kept
    }


def router_names(storage: Storage) -> dict[int, str]:
    """Return the name in the model of every layer's router weight.

    Raises
    ------
    ValueError
        If a router has none, or several.
    """
    names = weight_names(storage)
    for layer, block in storage.blocks.items():
        if layer not in names:
            raise ValueError(f"the router {_path(storage, block.router)} {NO_ROWS}")
    return names


def weight_names(storage: Storage) -> dict[int, str]:
    """Return the name in the model of the routers' weights, of the layers that have one."""
    paths = {module: path for path, module in storage.model.named_modules()}
    found = {
        layer: (paths[block.router], weight_name(block.router, block.num_experts))
        for layer, block in storage.blocks.items()
    }
    return {layer: f"{path}.{name}" for layer, (path, name) in found.items() if name is not None}


def _path(storage: Storage, router: nn.Module) -> str:
    return next(path for path, module in storage.model.named_modules() if module is router)


def changed_weight(base_EH: Tensor, layer: int, arrays: ExpertArrays) -> Tensor:
    """Return a router's weight ``[E, H]`` with the rows of the arrays changed, in its own type."""
    changed_EH = base_EH.clone()
    for index in range(len(base_EH)):
        change = arrays.get(ParameterKey(layer, index, ROUTER_ROW))
        if change is not None:
            changed_EH[index] = base_EH[index].float() + _tensor(change).to(base_EH.device)
    return changed_EH


RowChange = tuple[str, int, Tensor]
"""Name of a router's weight in the model, row, and change of that row ``[H]``, float32."""


def row_changes(storage: Storage, arrays: ExpertArrays) -> Iterator[RowChange]:
    """Yield the router rows that the arrays change; as `router_names`."""
    changes = {key: value for key, value in arrays.items() if key.name == ROUTER_ROW and value.any()}
    names = router_names(storage) if changes else {}
    for key in sorted(changes):
        yield names[key.layer], key.index, _tensor(changes[key])


def changed_rows(storage: Storage, changes: Iterable[RowChange]) -> Iterator[tuple[str, Part, Tensor]]:
    """Yield disk name, place of the row and new value in float32 of the changed router rows.

    Raises
    ------
    ValueError
        If the checkpoint does not store a router's weight as it is.
    """
    for target, index, change_H in changes:
        name = storage.stored_name(target)
        row = Part(index, storage.checkpoint.tensors[name].shape[0])
        yield name, row, storage.checkpoint.read_joined([name], row).reshape(-1).float() + change_H


def _tensor(change: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(change))
