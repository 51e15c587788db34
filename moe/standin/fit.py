"""Fit the stand-ins of a checkpoint to text, layer by layer."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.device import to_device
from moe.disk.layout import open_storage
from moe.disk.shards import Hold
from moe.families.blocks import MoEBlock
from moe.standin.in_turn import FittedExperts, fit_layer
from moe.standin.stand_in import StandIn, StandIns
from moe.submodel.load import build_around
from moe.submodel.routing import run_to_routers

RANK = 16
"""Of the maps: measured by this project on six bases (docs/LOG.md)."""


@torch.no_grad()
def fit_stand_ins(
    path: str | Path,
    batches_BT: Iterable[Tensor],
    *,
    base: str,
    rank: int = RANK,
    dtype: torch.dtype | str = "auto",
    hold: Hold = "dequantised",
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> StandIns:
    """Return what stands for the experts of every layer but the last, fitted to these tokens.

    In turn: each layer's stand-in is fitted on inputs as the earlier stand-ins leave them, to what makes the
    stream behind the layer the exact one again, so that errors do not grow with depth. The model runs once,
    each expert is read once. It holds the shared part, one expert, and of one layer the activations of all
    tokens twice and, in float64, two square sums of the width of hidden channels and experts.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.
    batches_BT : Iterable[Tensor]
        Token ids, without padding, all of one length. A few thousand tokens will do, if every domain that
        devices may hold is among them.
    base : str
        Identity of the checkpoint, kept with the stand-ins.
    rank : int
        Of the maps; >= 1.
    dtype, hold
        As `moe.submodel.load.load_submodel`: what the devices will compute in.
    device : torch.device or str
        Where the model runs. On a CPU with one thread the result is the same to the bit each time.
    progress : callable
        Told of every layer that is done.

    Raises
    ------
    ValueError
        If there are no tokens, blocks differ in length, the rank is no rank, or what the model computes is
        not finite; as `moe.disk.layout.read_layout`.
    """
    if rank < 1:
        raise ValueError(f"the rank of stand-ins must be at least 1, got {rank}; 16 is the default")
    tokens_BT = _joined(batches_BT)
    storage = open_storage(path, dtype, hold)
    if len(storage.blocks) == 1:
        return StandIns(base=base, of_layer={})

    def fitted(block: MoEBlock) -> nn.Module:
        return FittedExperts(block, partial(storage.read_projection, block.layer), storage.model.dtype)

    say = progress or (lambda _: None)
    model = to_device(build_around(storage, fitted), device)
    experts = sorted((m for m in model.modules() if isinstance(m, FittedExperts)), key=lambda m: m.layer)
    experts[-1].is_skipped = True  # no router comes after it
    found: dict[int, StandIn] = {}

    def fit_after(module: FittedExperts) -> None:
        def after(layer: nn.Module, args: Any, named: Any, output: Any) -> Any:
            found[module.layer], result = fit_layer(layer, args, named, output, module, rank)
            say(f"{len(found)} of {len(experts) - 1} layers have a stand-in for their experts")
            return result

        _layer_around(model, module).register_forward_hook(after, with_kwargs=True)

    for module in experts[:-1]:
        fit_after(module)
    run_to_routers(model, torch.cat([tokens_BT, tokens_BT]).to(model.device))
    return StandIns(base=base, of_layer=found)


def _joined(batches_BT: Iterable[Tensor]) -> Tensor:
    batches = list(batches_BT)
    lengths = sorted({tuple(batch.shape[1:]) for batch in batches})
    if len(lengths) != 1 or len(lengths[0]) != 1 or not sum(map(len, batches)):
        raise ValueError(
            "stand-ins are fitted to blocks of tokens of one length [B, T], got "
            f"{'no block' if not batches else f'blocks of {lengths}'}; give them some text, packed"
        )
    return torch.cat(batches)


def _layer_around(model: PreTrainedModel, experts: FittedExperts) -> nn.Module:
    """Return the decoder layer that an experts module is in: the nearest with a number."""
    parts = experts.block.path.split(".")
    last = max(place for place, part in enumerate(parts) if part.isdigit())
    return model.get_submodule(".".join(parts[: last + 1]))
