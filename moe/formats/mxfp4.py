"""MXFP4 experts (``quant_method: mxfp4``): gpt-oss.

Blocks of 32 numbers of four bits along a row, a shared exponent each (OCP Microscaling Formats 1.0). In
the file an expert's matrix is ``[out, in / 32, 16]`` bytes; the model's is ``[in, out]``. What is computed
is transformers' `Mxfp4Dequantize`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.integrations.mxfp4 import Mxfp4Dequantize

from moe.formats.packed import Like, Packed, PackedTensors, Raw, Stored, row_chunks

_BLOCKS, _SCALES = "_blocks", "_scales"
_BLOCK_BYTES, _BLOCK_NUMBERS = 16, 32
# The operation knows the two names that gpt-oss has, and treats both alike.
_NAME = "down_proj"


class Microscaled:
    """Experts' matrices, turned as the model has them."""

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        operation, like = Mxfp4Dequantize(None), Like(_NAME, out.dtype)
        blocks_ERGB, scales_ERG = raw["blocks"], raw["scales"]
        for expert in range(len(out)):
            for first, last in row_chunks(out.shape[2], out.shape[1]):
                chunk = {
                    f"{_NAME}{_BLOCKS}": blocks_ERGB[expert : expert + 1, first:last],
                    f"{_NAME}{_SCALES}": scales_ERG[expert : expert + 1, first:last],
                }
                made = operation.convert(chunk, model=like, full_layer_name=_NAME)
                out[expert : expert + 1, :, first:last] = made[_NAME]


def find_mxfp4(_said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> PackedTensors:
    """Return the MXFP4 tensors of a checkpoint; as `moe.formats.fp8.find_fp8`."""
    found: dict[str, Packed] = {}
    faults: list[str] = []
    for name, stored in tensors.items():
        if not name.endswith(_BLOCKS):
            continue
        stem = name.removesuffix(_BLOCKS)
        scale = tensors.get(stem + _SCALES)
        if scale is None:
            faults.append(f"{name} has no scales ({stem}{_SCALES})")
        elif (stored.dtype, scale.dtype) != ("U8", "U8"):
            faults.append(f"{name} and {stem}{_SCALES} must be U8, got {stored.dtype} and {scale.dtype}")
        elif len(stored.shape) != 4 or stored.shape[-1] != _BLOCK_BYTES:
            faults.append(f"{name} must be [experts, rows, blocks, {_BLOCK_BYTES}], got {list(stored.shape)}")
        elif scale.shape != stored.shape[:-1]:
            faults.append(f"{stem}{_SCALES} must be {list(stored.shape[:-1])}, got {list(scale.shape)}")
        else:
            experts, rows, groups, _ = stored.shape
            found[stem] = Packed(
                shape=(experts, groups * _BLOCK_NUMBERS, rows),
                sources={"blocks": name, "scales": stem + _SCALES},
                codec=Microscaled(),
            )
    orphans = [
        name
        for name in tensors
        if name.endswith(_SCALES) and name.removesuffix(_SCALES) + _BLOCKS not in tensors
    ]
    faults += [f"{name} has no numbers ({name.removesuffix(_SCALES)}{_BLOCKS})" for name in orphans]
    return PackedTensors(title="mxfp4, blocks of 32", tensors=found, faults=tuple(faults))
