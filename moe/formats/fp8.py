"""FP8 weights with scales of blocks (``quant_method: fp8``): DeepSeek-V3, MiniMax-M2, Qwen3, GLM.

Format: https://arxiv.org/abs/2412.19437 section 3.3.2, a scale for every 128 x 128 block, the last
blocks being smaller where the shape is no multiple. What is computed is transformers' `Fp8Dequantize`.
transformers 5.23 takes the block from the shapes instead, as rows / rows of scales: it refuses 576 rows in
blocks of 128 (DeepSeek-V3 has them), and computes with another block where the division leaves no rest
(192 rows as 2 x 96). Here such tensors are given to it in pieces of whole blocks, so that the block is
the one that the configuration says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, cast

from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from moe.formats.packed import Like, Packed, PackedTensors, Raw, Stored, row_chunks

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("F32", "BF16", "F16", "F8_E8M0", "U8")
# Two numbers of four bits a byte (DeepSeek-V4's experts).
_NIBBLES = ("I8",)


@dataclass(frozen=True, slots=True)
class BlockScaled:
    """Numbers times the scale of their block of ``rows x columns``."""

    rows: int
    columns: int

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        operation, like = Fp8Dequantize(None), Like("weight", out.dtype)
        weight, scale = raw["weight"], raw["scale"]
        per_byte = out.shape[-1] // weight.shape[-1]
        out_MRC = out.reshape(-1, *out.shape[-2:])
        weight_MRC = weight.reshape(len(out_MRC), out.shape[-2], -1)
        grid_columns = ceil(out.shape[-1] / self.columns)
        # One scale may serve several matrices.
        scale_MRC = scale.reshape(
            -1, 1 if scale.numel() == 1 else ceil(out.shape[-2] / self.rows), grid_columns
        )
        scale_MRC = scale_MRC.expand(len(out_MRC), -1, -1)
        # Columns that fill their blocks, and the last block where it is smaller.
        full = out.shape[-1] // self.columns * self.columns
        spans = [span for span in ((0, full), (full, out.shape[-1])) if span[0] < span[1]]
        bounds = list(row_chunks(out.shape[-2], out.shape[-1], self.rows))
        for matrix, (first, last) in ((m, bound) for m in range(len(out_MRC)) for bound in bounds):
            for top, bottom in self._whole_blocks(first, last):
                for left, right in spans:
                    part = weight_MRC[matrix, top:bottom, left // per_byte : right // per_byte]
                    grid = scale_MRC[
                        matrix,
                        top // self.rows : ceil(bottom / self.rows),
                        left // self.columns : ceil(right / self.columns),
                    ]
                    made = operation.convert(
                        {"weight": [part], "weight_scale_inv": [grid]}, full_layer_name="weight", model=like
                    )
                    out_MRC[matrix, top:bottom, left:right] = cast(Tensor, made["weight"])

    def _whole_blocks(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the rows in pieces, the last block apart where it is smaller than the others."""
        full = last - (last - first) % self.rows
        return [span for span in ((first, full), (full, last)) if span[0] < span[1]]


def find_fp8(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> PackedTensors:
    """Return the FP8 tensors of a checkpoint.

    Parameters
    ----------
    said : Mapping[str, Any]
        The ``quantization_config``.
    tensors : Mapping[str, Stored]
        What the headers say.
    """
    block = said.get("weight_block_size")
    if block is not None and not _is_block(block):
        return PackedTensors(
            title="fp8", tensors={}, faults=(f"weight_block_size = {block!r} must be two whole numbers >= 1",)
        )
    found: dict[str, Packed] = {}
    faults: list[str] = []
    used: set[str] = set()
    for name, stored in tensors.items():
        scale = next((other for other in _scale_names(name) if other in tensors), None)
        if stored.dtype not in (*FLOAT8, *_NIBBLES) or (scale is None and stored.dtype in _NIBBLES):
            continue
        if scale is None:
            faults.append(f"{name} is {stored.dtype} and has no scales ({name}_scale_inv)")
            continue
        used.add(scale)
        codec = _codec(name, stored, scale, tensors[scale], block)
        if isinstance(codec, str):
            faults.append(codec)
            continue
        found[name] = Packed(
            shape=_shape(stored),
            sources={"weight": name, "scale": scale},
            codec=codec,
            whole=frozenset({"scale"} if len(tensors[scale].shape) < 2 else ()),
        )
    orphans = [name for name in tensors if name.endswith("_scale_inv") and name not in used]
    faults += [f"{name} is of no FP8 tensor" for name in orphans]
    passed_over = {name for name in tensors if name.endswith(("activation_scale", "input_scale"))}
    told = f"blocks of {block[0]} x {block[1]}" if block else "a scale for each tensor"
    return PackedTensors(
        title=f"fp8, {told}", tensors=found, faults=tuple(faults), passed_over=frozenset(passed_over)
    )


def _scale_names(name: str) -> tuple[str, ...]:
    """Return what the scales of a tensor may be called."""
    stem = name.removesuffix("weight")
    others = () if stem == name else (f"{stem}scale", f"{stem}qscale_weight")
    return (f"{name}_scale_inv", *others)


def _shape(stored: Stored) -> tuple[int, ...]:
    return (*stored.shape[:-1], stored.shape[-1] * (2 if stored.dtype in _NIBBLES else 1))


def _codec(name: str, stored: Stored, scale: str, of_scale: Stored, block: Any) -> BlockScaled | str:
    """Return how a tensor is expanded, or what is wrong with it."""
    shape, grid = _shape(stored), of_scale.shape
    if len(shape) < 2:
        return f"{name} of shape {list(shape)} is no matrix"
    if of_scale.dtype not in _SCALES:
        return f"{scale} is {of_scale.dtype}, and scales are one of {', '.join(_SCALES)}"
    rows, columns = shape[-2:]
    if len(grid) < 2 and prod(grid) == 1:
        return BlockScaled(rows, columns)
    if len(grid) == len(shape) and grid[:-2] == shape[:-2]:
        if block is not None and (ceil(rows / block[0]), ceil(columns / block[1])) == grid[-2:]:
            return BlockScaled(*block)
        # A grid of its own, of rows: DeepSeek-V4's experts, in a file whose other blocks are 128 x 128.
        is_even = all(grid) and not rows % grid[-2] and not columns % grid[-1]
        if is_even and (block is None or rows == grid[-2]):
            return BlockScaled(rows // grid[-2], columns // grid[-1])
    wanted = f"[{ceil(rows / block[0])}, {ceil(columns / block[1])}]" if block else "one number"
    return f"{scale} must be {wanted} for {name} of {list(shape)}, got {list(grid)}"


def _is_block(block: Any) -> bool:
    is_pair = isinstance(block, (list, tuple)) and len(block) == 2
    return is_pair and all(type(size) is int and size >= 1 for size in block)
