"""compressed-tensors: ``pack-quantized`` whole numbers of 4 or 8 bits, and ``float-quantized`` FP8.

Kimi-K2-Thinking and much of what llm-compressor makes. transformers' `CompressedTensorsDequantize` calls the
package ``compressed-tensors``, which nothing else here needs: the arithmetic is a few lines, and it is tested
against the package to the bit.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from moe.formats.fp8 import FLOAT8
from moe.formats.packed import Packed, PackedTensors, Raw, Reader, Stored, row_chunks

_FORMATS = ("pack-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_INT32_BITS = 32
_READ_BITS = (4, 8)
_FLOATS = ("F32", "BF16", "F16")
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True, slots=True)
class PackedIntegers:
    """Whole numbers of some bits, less half their range, times the scale of their group of columns."""

    bits: int

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        packed, scale = raw["packed"], raw["scale"]
        scale_RG = scale.reshape(-1, scale.shape[-1] if scale.ndim > 1 else 1).expand(len(out), -1)
        for first, last in row_chunks(out.shape[0], out.shape[1]):
            number_RC = self._unpack(packed[first:last], out.shape[1]).to(scale.dtype)
            number_RGC = number_RC.unflatten(1, (scale_RG.shape[1], -1))
            out[first:last] = (number_RGC * scale_RG[first:last].unsqueeze(-1)).flatten(1)

    def _unpack(self, packed: Tensor, num_columns: int) -> Tensor:
        bytes_RB = packed.contiguous().view(torch.uint8)
        if self.bits == 4:
            bytes_RB = torch.stack((bytes_RB & 0xF, bytes_RB >> 4), dim=-1).flatten(1)
        return bytes_RB[:, :num_columns].to(torch.int16) - (1 << (self.bits - 1))


@dataclass(frozen=True, slots=True)
class ScaledFloats:
    """FP8 numbers times the scale of their row, or of their block of ``rows x columns``.

    As transformers, the product of an expert is made in float32, of any other layer in the scale's type.
    """

    rows: int
    columns: int
    is_expert: bool

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        weight, scale = raw["weight"], raw["scale"]
        dtype = torch.float32 if self.is_expert else scale.dtype
        grid = scale.reshape(ceil(len(out) / self.rows), ceil(out.shape[1] / self.columns)).to(dtype)
        for first, last in row_chunks(out.shape[0], out.shape[1], self.rows):
            rows = grid[first // self.rows : ceil(last / self.rows)]
            if len(rows) > 1 or grid.shape[1] > 1:
                rows = rows.repeat_interleave(self.rows, 0)[: last - first]
                rows = (
                    rows.repeat_interleave(self.columns, 1)[:, : out.shape[1]] if grid.shape[1] > 1 else rows
                )
            out[first:last] = weight[first:last].to(dtype) * rows


def find_compressed(said: Mapping[str, Any], tensors: Mapping[str, Stored], read: Reader) -> PackedTensors:
    """Return the compressed tensors of a checkpoint.

    Parameters
    ----------
    said, tensors
        As `moe.formats.fp8.find_fp8`.
    read : callable
        Reads the few numbers that are a tensor's shape.
    """
    groups = [group for group in (said.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    formats = {said.get("format"), *(group.get("format") for group in groups)} - {None}
    if foreign := sorted(map(str, formats - set(_FORMATS))):
        faults: tuple[str, ...] = (
            f"its format {', '.join(foreign)} is not read here, only {' and '.join(_FORMATS[:2])}",
        )
        return PackedTensors(title="compressed-tensors", tensors={}, faults=faults)
    weights = [group["weights"] for group in groups if isinstance(group.get("weights"), Mapping)]
    found: dict[str, Packed] = {}
    wrong: list[str] = []
    passed_over: set[str] = set()
    titles: dict[str, None] = {}
    for name, stored in tensors.items():
        stem, _, last = name.rpartition(".")
        if last in ("input_scale", "input_zero_point", "weight_shape"):
            passed_over.add(name)
            continue
        if last not in ("weight_packed", "weight") or (last == "weight" and stored.dtype not in FLOAT8):
            continue
        made = _module(stem, name, tensors, weights, read)
        if isinstance(made, str):
            wrong.append(made)
        else:
            packed, title = made
            found[f"{stem}.weight"] = packed
            titles[title] = None
    used = {name for packed in found.values() for name in packed.sources.values()}
    if not wrong:
        ends = ("weight_scale", "weight_zero_point", "weight_g_idx", "weight_global_scale")
        wrong += [
            f"{name} is of no packed tensor" for name in tensors if name.endswith(ends) and name not in used
        ]
    title = f"compressed-tensors, {' and '.join(titles) or 'nothing packed'}"
    return PackedTensors(title=title, tensors=found, faults=tuple(wrong), passed_over=frozenset(passed_over))


def _module(
    stem: str, name: str, tensors: Mapping[str, Stored], weights: list[Mapping[str, Any]], read: Reader
) -> tuple[Packed, str] | str:
    """Return one layer's weight and what its kind is called, or what is wrong with it."""
    extras = [f"{stem}.{word}" for word in ("weight_zero_point", "weight_g_idx", "weight_global_scale")]
    if odd := [extra for extra in extras if extra in tensors]:
        return f"{odd[0]}: only symmetric, unordered numbers are read here"
    scale_name = f"{stem}.weight_scale"
    if scale_name not in tensors:
        return f"{name} has no scales ({scale_name})"
    stored, scale = tensors[name], tensors[scale_name]
    if len(stored.shape) != 2 or scale.dtype not in _FLOATS:
        return f"{name} {list(stored.shape)} with {scale_name} {scale.dtype} is no matrix with scales"
    if name.endswith("weight_packed"):
        return _integers(stem, name, tensors, weights, read)
    rows, columns = stored.shape
    for block in _blocks(stored.shape, weights):
        if (ceil(rows / block[0]), ceil(columns / block[1])) == scale.shape or (
            block == stored.shape and prod(scale.shape) == 1
        ):
            codec = ScaledFloats(*block, is_expert=_EXPERT.search(name) is not None)
            is_whole = frozenset({"scale"} if prod(scale.shape) == 1 else ())
            sources = {"weight": name, "scale": scale_name}
            return Packed(shape=stored.shape, sources=sources, codec=codec, whole=is_whole), "FP8"
    return (
        f"{scale_name} must be [1], [{rows}, 1] or one for each block for {name} of {[rows, columns]}, got "
        f"{list(scale.shape)}"
    )


def _blocks(shape: tuple[int, ...], weights: list[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    rows, columns = shape
    yield from ((rows, columns), (1, columns))
    for said in weights:
        block = said.get("block_structure")
        if (
            isinstance(block, (list, tuple))
            and len(block) == 2
            and all(type(b) is int and b > 0 for b in block)
        ):
            yield block[0], block[1]


def _integers(
    stem: str,
    name: str,
    tensors: Mapping[str, Stored],
    weights: list[Mapping[str, Any]],
    read: Callable[[str], Tensor],
) -> tuple[Packed, str] | str:
    stored, scale = tensors[name], tensors[f"{stem}.weight_scale"]
    rows, words = stored.shape
    whole = [said for said in weights if said.get("type", "int") == "int"]
    bits = sorted({said.get("num_bits") for said in whole}, key=str)
    if stored.dtype != "I32" or not whole or any(b not in _READ_BITS for b in bits):
        told = " or ".join(map(str, _READ_BITS))
        return f"{name} is {stored.dtype} of {bits or 'no known'} bits, and {told} bits in I32 are read here"
    for said in whole:
        width = int(said["num_bits"])
        columns, group = words * _INT32_BITS // width, said.get("group_size")
        if said.get("strategy") in ("group", "tensor_group") and type(group) is int and group > 0:
            fits, told = (
                (rows, ceil(columns / group)) == scale.shape and not columns % group,
                f"groups of {group}",
            )
        else:
            fits, told = tuple(scale.shape) in ((rows, 1), (1,), (1, 1), ()), "a scale a row"
            shape_name = f"{stem}.weight_shape"
            if fits and shape_name in tensors:
                columns = int(read(shape_name)[-1])
                fits = ceil(columns * width / _INT32_BITS) == words
        if fits:
            sources = {"packed": name, "scale": f"{stem}.weight_scale"}
            is_whole = frozenset({"scale"} if prod(scale.shape) == 1 else ())
            packed = Packed(
                shape=(rows, columns), sources=sources, codec=PackedIntegers(width), whole=is_whole
            )
            return packed, f"int{width} in {told}"
    return (
        f"{stem}.weight_scale {list(scale.shape)} does not fit {name} {list(stored.shape)} by config_groups"
    )
