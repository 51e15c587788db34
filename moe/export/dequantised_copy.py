"""The files of a quantised checkpoint's dequantised copy, written tensor by tensor.

A shard of the copy is the shard of the original that held the numbers, under its name; the memory it takes is
that of one tensor. Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from moe.disk.config_fields import without_nulls
from moe.disk.dequantised import DequantisedCheckpoint
from moe.disk.weight_files import SINGLE

_ALIGNMENT = 8


def write_copy(checkpoint: DequantisedCheckpoint, folder: Path) -> None:
    """Write configuration, index and weights of the dequantised copy into a folder.

    Parameters
    ----------
    checkpoint : DequantisedCheckpoint
        What to write; in the type it was opened in.
    folder : Path
        Where to; it exists.
    """
    places: dict[str, str] = {}
    for stored in checkpoint.weights.shards:
        names = sorted(n for n, spec in checkpoint.tensors.items() if spec.file == checkpoint.folder / stored)
        shard = SINGLE if stored.endswith(".gguf") else stored
        if names:
            (folder / shard).parent.mkdir(parents=True, exist_ok=True)
            with (folder / shard).open("wb") as stream:
                _write_shard(checkpoint, names, stream)
            places |= dict.fromkeys(names, shard)
    if checkpoint.weights.index:
        total = sum(spec.num_bytes for spec in checkpoint.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / checkpoint.weights.index).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    fields = without_nulls(checkpoint.config)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _write_shard(checkpoint: DequantisedCheckpoint, names: Sequence[str], stream: BinaryIO) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        spec = checkpoint.tensors[name]
        stop = start + spec.num_bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    stream.write(struct.pack("<Q", len(text)) + text)
    for name in names:
        if checkpoint.tensors[name].num_bytes:
            stream.write(checkpoint.map(name).contiguous().view(-1).view(torch.uint8).numpy().data)
