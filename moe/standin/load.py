"""The shared part of a checkpoint with stand-ins: enough to tell which experts data would use."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from moe.disk.layout import open_storage
from moe.disk.shards import Hold
from moe.disk.storage import Storage
from moe.standin.stand_in import StandInExperts, StandIns
from moe.submodel.load import build_around


def load_with_stand_ins(
    path: str | Path,
    stand_ins: StandIns,
    *,
    dtype: torch.dtype | str = "auto",
    hold: Hold = "dequantised",
) -> PreTrainedModel:
    """Return a model whose routing `moe.submodel.routing.routing_mass` tells, without any expert.

    Reads the shared part, and no byte of an expert. The first MoE layer's routing is the full model's to
    the bit, the others' as near as the stand-ins are.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.
    stand_ins : StandIns
        Fitted to this checkpoint; whose they are is checked where they are read from.
    dtype, hold
        As `moe.submodel.load.load_submodel`.

    Raises
    ------
    ValueError
        If they are for other layers or of other shapes; as `moe.disk.layout.read_layout`.
    """
    return build_with_stand_ins(open_storage(path, dtype, hold), stand_ins)


def build_with_stand_ins(storage: Storage, stand_ins: StandIns) -> PreTrainedModel:
    """Do what `load_with_stand_ins` does to an opened checkpoint; uses ``storage`` up."""
    check_shapes(storage, stand_ins)
    return build_around(storage, lambda block: StandInExperts(block, stand_ins.of_layer.get(block.layer)))


def check_shapes(storage: Storage, stand_ins: StandIns) -> None:
    """Refuse stand-ins for other layers, or of other shapes, than a checkpoint's; all faults at once.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    *layers, _ = sorted(storage.blocks)
    faults = []
    if sorted(stand_ins.of_layer) != layers:
        faults.append(f"they are for layers {sorted(stand_ins.of_layer)}, and {layers} need one")
    for layer in set(layers) & set(stand_ins.of_layer):
        hidden, num_experts = storage.blocks[layer].shape("fc_out")[0], storage.blocks[layer].num_experts
        rank = stand_ins.of_layer[layer].into.shape[0]
        wanted = {
            "bias": (hidden,),
            "out": (hidden, rank),
            "into": (rank, hidden),
            "constant": (num_experts, hidden),
        }
        for name, tensor in stand_ins.of_layer[layer].tensors.items():
            if tuple(tensor.shape) != wanted[name]:
                faults.append(f"{name} of layer {layer} is {list(tensor.shape)}, not {list(wanted[name])}")
    if faults:
        raise ValueError(
            f"stand-ins do not fit checkpoint {storage.checkpoint.folder}: {'; '.join(faults)}; make them "
            "from this checkpoint"
        )
