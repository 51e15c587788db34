"""Stand-ins in one safetensors file, with the identity of the checkpoint they were fitted to."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moe.disk.writing import writing
from moe.standin.stand_in import WIRE_DTYPE, StandIn, StandIns

_FORM = "ems-fl stand-ins 1"
_NAME = re.compile(r"layer\.(\d+)\.(bias|out|into|constant)")
_PARTS = ("bias", "out", "into", "constant")
_HEADER_BYTES = 10_000


def save_stand_ins(stand_ins: StandIns, path: str | Path) -> Path:
    """Write stand-ins into a safetensors file; ``path`` is replaced once the file is whole.

    Tensors are called ``layer.3.into``; the header has the base's identity.

    Raises
    ------
    OSError
        As `moe.disk.writing.writing`.
    """
    target = Path(path)
    tensors = {
        f"layer.{layer}.{name}": tensor.cpu().contiguous()
        for layer, stand_in in stand_ins.of_layer.items()
        for name, tensor in stand_in.tensors.items()
    }
    unfinished = target.with_name(f".{target.name}.unfinished")
    with writing("the file of stand-ins", target, stand_ins.num_bytes + _HEADER_BYTES):
        save_file(tensors, unfinished, {"form": _FORM, "base": stand_ins.base})
        unfinished.replace(target)
    return target


def read_stand_ins(path: str | Path, *, base: str) -> StandIns:
    """Read the stand-ins of one checkpoint from a file of `save_stand_ins`.

    Parameters
    ----------
    path : str or Path
        The file.
    base : str
        Identity of the checkpoint they are wanted for.

    Raises
    ------
    ValueError
        If the file is not there, damaged, of something else or of another checkpoint, or holds numbers
        that are not finite. Whether shapes fit is checked where they are put into a model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"stand-ins cannot be read from {path} ({error}); make them again with ems-fl prepare"
        ) from error
    if said.get("form") != _FORM:
        raise ValueError(f"{path} holds no stand-ins of this form ({_FORM}); make them with ems-fl prepare")
    if said.get("base") != base:
        raise ValueError(
            f"stand-ins in {path} are of the base {said.get('base')}, and this one is {base}; make its own "
            "with ems-fl prepare"
        )
    return StandIns(base=base, of_layer=_by_layer(path, tensors))


def _by_layer(path: str | Path, tensors: dict[str, torch.Tensor]) -> dict[int, StandIn]:
    """Sort tensors by layer; refuse what is missing, strange, of another type or not finite, all at once."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    faults = []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            faults.append(f"{name} is no part of a stand-in")
            continue
        if tensor.dtype != WIRE_DTYPE:
            faults.append(f"{name} is {tensor.dtype}, not {WIRE_DTYPE}")
        elif not tensor.isfinite().all():
            faults.append(f"{name} holds numbers that are not finite")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    faults += [
        f"layer.{layer}.{part} is missing"
        for layer, parts in found.items()
        for part in _PARTS
        if part not in parts
    ]
    if faults:
        raise ValueError(f"stand-ins in {path} are damaged: {'; '.join(faults)}; make them again")
    return {
        layer: StandIn(
            bias=parts["bias"],
            out=parts["out"],
            into=parts["into"],
            constant=parts["constant"],
        )
        for layer, parts in sorted(found.items())
    }
