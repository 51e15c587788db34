"""A checkpoint on disk: which tensor lies where, read from headers; values only when asked for.

The headers of safetensors files are parsed here (8 bytes of length, JSON, data), because a file cut
short, a missing shard or a wrong index must be refused before anything is allocated, and because the
exporter patches single experts inside a shard.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moe.disk.hub import resolve_folder

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# A header is JSON of about 100 bytes a tensor; safetensors itself refuses more than this.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Where one tensor lies: ``file`` bytes ``[start, stop)``, its dtype (safetensors name) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the values."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Part:
    """The ``index``-th of ``count`` equal parts of a tensor along its first axis."""

    index: int
    count: int


class Checkpoint:
    """The tensors of a checkpoint folder, located but not read.

    Parameters
    ----------
    folder : Path
        Folder in the Hugging Face layout, on this machine.
    config : Mapping[str, Any]
        Its ``config.json``.
    tensors : Mapping[str, TensorSpec]
        By the name they have on disk.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> None:
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self.bytes_read = 0

    def map(self, name: str) -> torch.Tensor:
        """Return a tensor by its disk name whose pages are read when touched, and shared between processes.

        Writing to it never reaches the file (copy on write).
        """
        spec = self.tensors[name]
        self.bytes_read += spec.num_bytes
        if spec.num_bytes == 0:
            return torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype])
        # Each tensor alone, never the file: Linux refuses a private mapping much larger than the memory.
        raw = np.memmap(spec.file, dtype=np.uint8, mode="c", offset=spec.start, shape=(spec.num_bytes,))
        return _tensor(raw, spec.dtype, spec.shape)

    def read_joined(self, names: Sequence[str], part: Part | None = None) -> torch.Tensor:
        """Return tensors one after another along the first axis, in memory of their own.

        Parameters
        ----------
        names : Sequence[str]
            Disk names, of one dtype and equal but for the first axis.
        part : Part, optional
            Only this part of each.
        """
        specs = [self.tensors[name] for name in names]
        pieces = [locate(spec, part) for spec in specs]
        # Not mapped: mapped pages would stay beside any copy made of them. In torch's own memory, for
        # its alignment: matrix products round by it.
        raw: NDArray[np.uint8] = torch.empty(sum(size for _, size in pieces), dtype=torch.uint8).numpy()
        filled = 0
        for spec, (start, size) in zip(specs, pieces, strict=True):
            with spec.file.open("rb") as stream:
                stream.seek(start)
                stream.readinto(raw[filled : filled + size].data)
            filled += size
        self.bytes_read += filled
        return _tensor(raw, specs[0].dtype, (-1, *specs[0].shape[1:]))


def locate(spec: TensorSpec, part: Part | None) -> tuple[int, int]:
    """Return the start and size in bytes, in its file, of a tensor or of one part of it."""
    if part is None:
        return spec.start, spec.num_bytes
    part_bytes = spec.num_bytes // part.count
    return spec.start + part.index * part_bytes, part_bytes


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Locate every tensor of a checkpoint from headers alone.

    Parameters
    ----------
    path : str or Path
        A folder, or a model's name on the Hugging Face hub (fetched into the hub's own cache).

    Raises
    ------
    ValueError
        If there is no such folder or name, or its files are missing, cut short or inconsistent; all
        faults of the files at once.
    """
    folder = resolve_folder(path)
    config = _read_json(folder / "config.json", f"checkpoint {folder}")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ValueError(
            f"checkpoint {folder} is quantised ({method}); experts are sliced and tuned in fp32, bf16 or "
            "fp16: save a dequantised copy and use that"
        )
    names, faults = _shard_files(folder)
    tensors: dict[str, TensorSpec] = {}
    for file in sorted(set(names.values()) if names else [_SINGLE]):
        found, fault = _read_header(folder / file)
        tensors.update(found)
        faults += [fault] if fault else []
    faults += [
        f"{file} lacks tensor {name!r}, which the index says it holds"
        for name, file in names.items()
        if name not in tensors or tensors[name].file.name != file
    ][:5]
    if faults:
        raise ValueError(
            f"checkpoint {folder} is damaged: " + "; ".join(faults) + "; download or save it again"
        )
    return Checkpoint(folder, config, tensors)


def _tensor(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(raw).view(TORCH_DTYPES[dtype]).reshape(shape)


def _read_json(file: Path, owner: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{owner} has no {file.name}; give the folder of a Hugging Face checkpoint"
        ) from None
    except ValueError as error:
        raise ValueError(f"{owner} has a {file.name} that is not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{owner} has a {file.name} that is not a JSON object; download it again")
    return content


def _shard_files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the index (tensor -> file; empty without one) and what is wrong with the set of files."""
    if (folder / _INDEX).is_file():
        names = _read_json(folder / _INDEX, f"checkpoint {folder}").get("weight_map")
        if not isinstance(names, dict) or not names:
            return {}, [f"{_INDEX} has no weight_map"]
        absent = sorted({file for file in names.values() if not (folder / file).is_file()})
        if absent:
            present = {name: file for name, file in names.items() if file not in absent}
            return present, [
                f"missing {len(absent)} of {len(set(names.values()))} shards: {', '.join(absent)}"
            ]
        return names, []
    if (folder / _SINGLE).is_file():
        return {}, []
    pickles = sorted(file.name for file in folder.glob("*.bin")) + sorted(f.name for f in folder.glob("*.pt"))
    if pickles:
        raise ValueError(
            f"checkpoint {folder} has only pickle weights ({', '.join(pickles[:3])}), which can run code "
            "when opened; convert them to safetensors (model.save_pretrained) first"
        )
    loose = sorted(file.name for file in folder.glob("*.safetensors"))
    hint = f"; it has {', '.join(loose[:3])}, whose index is missing" if loose else ""
    raise ValueError(
        f"checkpoint {folder} has neither {_SINGLE} nor {_INDEX}{hint}; download or save it again"
    )


def _read_header(file: Path) -> tuple[dict[str, TensorSpec], str]:
    """Return the tensors of one file, and a fault (empty when sound)."""
    if not file.is_file():
        return {}, ""  # already reported with the set of files
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            return {}, f"{file.name} is not a safetensors file or is cut short ({size} bytes)"
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return {}, f"{file.name} has a header that is not JSON"
    header.pop("__metadata__", None)
    tensors: dict[str, TensorSpec] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        dtype = TORCH_DTYPES.get(entry["dtype"])
        if dtype is None:
            return {}, f"{file.name} holds {name!r} as {entry['dtype']}, not one of {', '.join(TORCH_DTYPES)}"
        if end - begin != prod(shape) * dtype.itemsize:
            return {}, f"{file.name}: {name!r} of shape {list(shape)} has {end - begin} bytes in the header"
        tensors[name] = TensorSpec(
            file=file, dtype=entry["dtype"], shape=shape, start=8 + length + begin, stop=8 + length + end
        )
    needed = max((spec.stop for spec in tensors.values()), default=8 + length)
    if size < needed:
        return {}, f"{file.name} is cut short: {size} of {needed} bytes"
    return tensors, ""
