"""The form in which two families are published; transformers 5.23 writes them in another."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
Change = Callable[[str, Tensor], tuple[str, Tensor]]


def _transpose_experts(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Qwen3-VL-30B-A3B holds its experts ``[E, in, out]``; both forms load."""
    is_fused = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    return name, tensor.transpose(1, 2).contiguous() if is_fused else tensor


def _name_layers(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Kimi-K2.5 calls text layers so; transformers writes ``blocks``, which is the vision tower's word."""
    return name.replace("language_model.model.blocks.", "language_model.model.layers."), tensor


PUBLISHED: Mapping[str, Change] = {"qwen3_vl_moe": _transpose_experts, "kimi_k25": _name_layers}


def rewrite(folder: Path, change: Change) -> None:
    """Change every tensor of a sharded checkpoint in place."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = dict(change(name, tensor) for name, tensor in load_file(file).items())
        save_file(tensors, file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(tensors, file.name)
    (folder / INDEX).write_text(json.dumps(index))
