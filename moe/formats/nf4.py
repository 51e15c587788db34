"""bitsandbytes 4-bit (``load_in_4bit``): nf4 and fp4, plain or with nested scales.

A table of 16 numbers and a scale for every block of consecutive numbers (QLoRA, arXiv 2305.14314); the scales
themselves may be 8-bit, of a table and scale of their own. The arithmetic is that of bitsandbytes'
``dequantize_4bit``, which needs its compiled library; this needs torch alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from moe.formats.packed import CHUNK_ELEMENTS, Packed, PackedTensors, Raw, Reader, Stored

_STATE = ".quant_state.bitsandbytes__"
_TYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOf16:
    """Numbers looked up in a table, times the scale of their block."""

    block: int
    dtype: torch.dtype
    nested_block: int = 0
    nested_offset: float = 0.0

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        packed, table, scale = raw["weight"].reshape(-1), raw["table"], self._scales(raw)
        flat = out.view(-1)
        step = max(1, CHUNK_ELEMENTS // (2 * self.block)) * 2 * self.block
        for first in range(0, len(flat), step):
            last = min(first + step, len(flat))
            pairs = packed[first // 2 : ceil(last / 2)]
            places = torch.stack((pairs >> 4, pairs & 0xF), dim=-1).flatten()[: last - first]
            scales = scale[first // self.block : ceil(last / self.block)].repeat_interleave(self.block)
            numbers = table[places.int()] * scales[: last - first]
            flat[first:last] = numbers.to(self.dtype)

    def _scales(self, raw: Raw) -> Tensor:
        if not self.nested_block:
            return raw["absmax"].float()
        outer = raw["nested_absmax"].float().repeat_interleave(self.nested_block)
        inner = raw["nested_table"].float()[raw["absmax"].int()]
        return inner * outer[: len(inner)] + self.nested_offset


def find_4bit(said: Mapping[str, Any], tensors: Mapping[str, Stored], read: Reader) -> PackedTensors:
    """Return the 4-bit tensors of a checkpoint; as `moe.formats.compressed.find_compressed`."""
    if not (said.get("load_in_4bit") or said.get("_load_in_4bit")):
        fault = "bitsandbytes 8-bit is not read here, only 4-bit"
        return PackedTensors(title="bitsandbytes", tensors={}, faults=(fault,))
    found: dict[str, Packed] = {}
    faults: list[str] = []
    for name, stored in tensors.items():
        if stored.dtype != "U8" or "." not in name or not name.endswith("weight"):
            continue
        state = next((other for kind in ("nf4", "fp4") if (other := name + _STATE + kind) in tensors), None)
        sources = {"weight": name, "absmax": f"{name}.absmax", "table": f"{name}.quant_map"}
        lacking = [other for other in sources.values() if other not in tensors]
        if state is None or lacking:
            faults.append(f"{name} has no scales ({', '.join(lacking or [name + _STATE + 'nf4'])})")
            continue
        made = _packed(name, sources, tensors, read(state))
        if isinstance(made, str):
            faults.append(made)
        else:
            found[name] = made
    passed_over = frozenset(name for name in tensors if _STATE in name)
    kind = said.get("bnb_4bit_quant_type", "fp4")
    return PackedTensors(
        title=f"bitsandbytes 4-bit, {kind}", tensors=found, faults=tuple(faults), passed_over=passed_over
    )


def _packed(name: str, sources: dict[str, str], tensors: Mapping[str, Stored], state: Tensor) -> Packed | str:
    try:
        content = json.loads(bytes(state.tolist()))
        shape, block = tuple(int(size) for size in content["shape"]), int(content["blocksize"])
        dtype, is_nested = _TYPES[content["dtype"]], "nested_blocksize" in content
        nested_block = int(content["nested_blocksize"]) if is_nested else 0
        offset = float(content["nested_offset"]) if is_nested else 0.0
    except (ValueError, KeyError, TypeError) as error:
        return f"{name} has a quant_state that says nothing of use ({type(error).__name__}: {error})"
    if is_nested:
        sources = sources | {
            "nested_absmax": f"{name}.nested_absmax",
            "nested_table": f"{name}.nested_quant_map",
        }
    count = prod(shape)
    wanted = {"weight": ceil(count / 2), "absmax": ceil(count / max(1, block)), "table": 16}
    if is_nested:
        wanted |= {"nested_absmax": ceil(wanted["absmax"] / max(1, nested_block)), "nested_table": 256}
    for role, size in wanted.items():
        spec = tensors.get(sources[role])
        if spec is None or prod(spec.shape) != size:
            got = "nothing" if spec is None else str(prod(spec.shape))
            return f"{sources[role]} must hold {size} numbers for {name} of {list(shape)}, got {got}"
    codec = TableOf16(block=block, dtype=dtype, nested_block=nested_block, nested_offset=offset)
    return Packed(shape=shape, sources=sources, codec=codec, whole=frozenset(sources))
