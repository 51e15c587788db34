"""GGUF (``quant_method: gguf``): the tensors of llama.cpp's files under the names of transformers' models.

Three families, those whose experts transformers 5.23 reads from such a file: qwen2_moe, qwen3_moe and
minimax_m2. The numbers are those of the package ``gguf`` (`gguf.quants.dequantize`), which transformers calls
too. llama.cpp keeps an expert's gate and up projections apart; the model has them one after the other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moe.formats.packed import Packed, PackedTensors, Raw, Stored, row_chunks

PLAIN = ("F32", "F16", "BF16")
"""Types that are numbers already."""

_OUTSIDE: Mapping[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_EXPERTS: Mapping[str, str] = {
    "ffn_gate_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_GATE, _UP = "_gate_exps", "_up_exps"
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_NUMBERS = "numbers"
"""Role of what is all of a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufBlocks:
    """Numbers in llama.cpp's blocks; those of several roles stand one under the other, in each expert.

    Parameters
    ----------
    types : Mapping[str, str]
        Role -> type in the file, in their order.
    """

    types: Mapping[str, str]

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out``; as `moe.formats.packed.Codec`."""
        out_MRC = out.view(len(out) if out.ndim == 3 else 1, -1, out.shape[-1])
        first = 0
        for role, dtype in self.types.items():
            rows_MRB = raw[role].reshape(len(out_MRC), -1, raw[role].shape[-1])
            last = first + rows_MRB.shape[1]
            for rows_RB, out_RC in zip(rows_MRB, out_MRC[:, first:last], strict=True):
                _fill(rows_RB, dtype, out_RC)
            first = last


def _fill(rows_RB: Tensor, dtype: str, out_RC: Tensor) -> None:
    """Put the numbers of rows in their place, some rows at a time."""
    if dtype in PLAIN:
        out_RC.copy_(rows_RB)
        return
    from gguf import GGMLQuantizationType, quants  # a third of a second: only for GGUF

    for first, last in row_chunks(len(rows_RB), out_RC.shape[-1]):
        numbers = quants.dequantize(rows_RB[first:last].cpu().numpy(), GGMLQuantizationType[dtype])
        out_RC[first:last] = torch.from_numpy(np.ascontiguousarray(numbers))


def find_gguf(tensors: Mapping[str, Stored]) -> PackedTensors:
    """Return the tensors of a GGUF file under transformers' names; as `moe.formats.fp8.find_fp8`."""
    used = {name: target for name in tensors if (target := _target(name)) is not None}
    types = sorted({tensors[name].dtype for name in used})
    faults = [
        f"{next(name for name in used if tensors[name].dtype == dtype)} is in type {dtype}, which the "
        "package gguf does not expand"
        for dtype in types
        if not _is_expanded(dtype)
    ]
    found: dict[str, Packed] = {}
    for name, target in used.items() if not faults else ():
        sources = {_NUMBERS: name}
        if _GATE in name or _UP in name:
            sources = {"gate": name.replace(_UP, _GATE), "up": name.replace(_GATE, _UP)}
        if lacking := [source for source in sources.values() if source not in tensors]:
            faults.append(f"{name} has no {lacking[0]} beside it")
            continue
        found[target] = Packed(
            shape=_shape(target, [tensors[source] for source in sources.values()]),
            sources=sources,
            codec=GgufBlocks(types={role: tensors[source].dtype for role, source in sources.items()}),
        )
    return PackedTensors(title=f"GGUF, {', '.join(types)}", tensors=found, faults=tuple(faults))


def _target(name: str) -> str | None:
    """Return what a tensor of a file, or a part of what, is called in the model; None if it is not known."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, place, kind = match.groups()
    if (place, kind) == ("exp_probs_b", "bias"):
        return f"model.layers.{layer}.mlp.e_score_correction_bias"
    if kind == "weight" and (experts := _EXPERTS.get(place.replace(_UP, _GATE))):
        return f"model.layers.{layer}.{experts}"
    return f"model.layers.{layer}.{_IN_LAYER[place]}.{kind}" if place in _IN_LAYER else None


def _shape(target: str, parts: Sequence[Stored]) -> tuple[int, ...]:
    """Return the shape in numbers of what these parts are, one under the other."""
    first, columns = parts[0].shape, _columns(parts[0])
    if len(first) == 3:
        return (first[0], sum(part.shape[1] for part in parts), columns)
    # llama.cpp drops the axis of one row.
    return (1, columns) if target.endswith("shared_expert_gate.weight") else (*first[:-1], columns)


def _columns(stored: Stored) -> int:
    if stored.dtype in PLAIN:
        return stored.shape[-1]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[stored.dtype]]
    return stored.shape[-1] // block_bytes * block


def _is_expanded(dtype: str) -> bool:
    """Tell whether numbers can be had of a type."""
    if dtype in PLAIN:
        return True
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    kind = GGMLQuantizationType[dtype]
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
