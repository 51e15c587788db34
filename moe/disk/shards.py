"""A checkpoint on disk: which tensor lies where, read from headers; values only when asked for.

Headers are parsed by ourselves (`moe.disk.headers`), because a file cut short, a missing shard or a wrong
index must be refused before anything is allocated, and because the exporter patches single experts
inside a shard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from moe.disk.headers import QUANTISED, HeaderError, read_header
from moe.disk.hub import resolve_folder
from moe.disk.json_file import read_object
from moe.disk.weight_files import WeightFiles, find_weights
from moe.families.aliases import as_known
from moe.formats.find import quantization
from moe.formats.packed import Packed
from moe.gguf.header import BLOCK_TYPES, GgufError, read_gguf_header
from moe.held import Extent, Held

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    **dict.fromkeys(BLOCK_TYPES, torch.uint8),
}


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


Source = tuple[str, Part | None]
"""Disk name of a tensor, and which part of it."""

ReadJoined = Callable[[Sequence[str], Part | None], torch.Tensor]
"""As `Checkpoint.read_joined`."""

AS_IT_IS = "as it is"
"""Role of a tensor that is not packed."""

Hold = Literal["dequantised", "file"]
"""Whether packed weights are held as numbers, or in the file's few bits and expanded as they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight in the few bits of its file.

    Parameters
    ----------
    raw : Mapping[tuple[Source, str], Tensor]
        What it is made of.
    shape : tuple[int, int]
        ``(out_features, in_features)``.
    expand : callable
        ``raw``, or the same tensors on another device -> the weight ``[out, in]``.
    """

    raw: Mapping[tuple[Source, str], torch.Tensor]
    shape: tuple[int, int]
    expand: Callable[[Mapping[tuple[Source, str], torch.Tensor]], torch.Tensor]


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
    weights : WeightFiles
        The files they lie in.
    held : Held or None
        Which of their bytes are here; None: all.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        tensors: Mapping[str, TensorSpec],
        weights: WeightFiles,
        held: Held | None = None,
    ) -> None:
        self.folder = folder
        self.held = held
        self.config = config
        self.tensors = tensors
        self.weights = weights
        self.bytes_read = 0
        self.packed: Mapping[str, Packed] = {}
        self.described: frozenset[str] = frozenset()
        self.format = ""

    def map(self, name: str, part: Part | None = None) -> torch.Tensor:
        """Return a tensor by its disk name whose pages are read when touched, and shared between processes.

        Writing to it never reaches the file (copy on write).

        Raises
        ------
        ValueError
            If it was not delivered to this machine.
        """
        spec = self.tensors[name]
        start, size = self._find(name, part)
        shape = spec.shape if part is None else (spec.shape[0] // part.count, *spec.shape[1:])
        if size == 0:
            return torch.empty(shape, dtype=TORCH_DTYPES[spec.dtype])
        # Each tensor alone, never the file: Linux refuses a private mapping much larger than the memory.
        raw = np.memmap(spec.file, dtype=np.uint8, mode="c", offset=start, shape=(size,))
        return _tensor(raw, spec.dtype, shape)

    def _find(self, name: str, part: Part | None) -> tuple[int, int]:
        """Return where what is about to be read begins in its file, and its bytes."""
        start, size = locate(self.tensors[name], part)
        if self.held is not None and not self.held.has([self.extent(name, part)]):
            raise ValueError(
                f"checkpoint {self.folder} holds some of the experts only, and {name!r} is of one that was "
                "not delivered to it"
            )
        self.bytes_read += size
        return start, size

    def extent(self, name: str, part: Part | None = None) -> Extent:
        """Return where the bytes of a tensor on disk, or of a part of it, lie."""
        start, size = locate(self.tensors[name], part)
        return Extent(self.tensors[name].file.relative_to(self.folder).as_posix(), start, start + size)

    @property
    def in_files(self) -> Mapping[str, TensorSpec]:
        """Every tensor as it lies in the files, by its name there."""
        return self.tensors

    def made_of(self, name: str) -> list[str]:
        """Return the tensors in the files that a tensor is made of."""
        return [name]

    def sources(self, name: str, part: Part | None = None) -> list[Source]:
        """Return the tensors on disk, or parts of them, that only this tensor or part of it is made of."""
        return [(name, part)]

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
        pieces = [self._find(name, part) for name in names]
        # Not mapped: mapped pages would stay beside any copy made of them. In torch's own memory, for
        # its alignment: matrix products round by it.
        raw: NDArray[np.uint8] = torch.empty(sum(size for _, size in pieces), dtype=torch.uint8).numpy()
        filled = 0
        for spec, (start, size) in zip(specs, pieces, strict=True):
            with spec.file.open("rb") as stream:
                stream.seek(start)
                stream.readinto(raw[filled : filled + size].data)
            filled += size
        return _tensor(raw, specs[0].dtype, (-1, *specs[0].shape[1:]))

    def raw_bytes(self, name: str, part: Part | None = None) -> int:
        """Return the bytes that a tensor, or a part of it, has in the file."""
        return locate(self.tensors[name], part)[1]

    def read_raw(self, name: str, part: Part | None = None) -> dict[str, torch.Tensor]:
        """Return what a tensor, or a part of it, is made of, by role; in the file's few bits."""
        return {AS_IT_IS: self.read_joined([name], part)}

    def expand(
        self, names: Sequence[str], part: Part | None, raws: Iterable[Mapping[str, torch.Tensor]]
    ) -> torch.Tensor:
        """Return what `read_joined` does, of what `read_raw` read before."""
        del names, part  # what is as it is needs no more than its values
        return torch.cat([raw[AS_IT_IS] for raw in raws])

    def hold(
        self,
        sources: Sequence[Source],
        assemble: Callable[[ReadJoined], torch.Tensor],
        shape: tuple[int, int],
    ) -> PackedWeight:
        """Return a weight in the few bits of the file.

        Parameters
        ----------
        sources : Sequence[Source]
            What it is made of.
        assemble : callable
            Makes it, given what reads tensors.
        shape : tuple[int, int]
            Of it.
        """

        def expand(raw: Mapping[tuple[Source, str], torch.Tensor]) -> torch.Tensor:
            by_source: dict[Source, dict[str, torch.Tensor]] = {}
            for (source, role), tensor in raw.items():
                by_source.setdefault(source, {})[role] = tensor
            return assemble(
                lambda names, part: self.expand(names, part, [by_source[name, part] for name in names])
            )

        raw = {
            ((name, part), role): tensor
            for name, part in sources
            for role, tensor in self.read_raw(name, part).items()
        }
        return PackedWeight(raw=raw, shape=shape, expand=expand)


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
    where = f"checkpoint {folder}"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{where} has no config.json; {_what_it_is(folder)}")
    config = as_known(read_object(folder / "config.json", where))
    said = quantization(where, config)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{where} has an adapter beside its weights (adapter_config.json), which transformers would add "
            "to them by itself; merge it, or move it to a folder of its own"
        )
    weights = find_weights(folder, config)
    tensors, faults = _read_headers(folder, weights)
    if faults:
        raise ValueError(f"{where} is damaged: " + "; ".join(faults) + "; download or save it again")
    quantised = [name for name, spec in tensors.items() if spec.dtype in QUANTISED]
    if quantised and said is None:
        raise ValueError(
            f"{where} holds {quantised[0]!r} as {tensors[quantised[0]].dtype}: it is quantised, though its "
            f"config.json has no quantization_config, which says how; put it back, or save a dequantised "
            "copy and use that"
        )
    return Checkpoint(folder, config, tensors, weights, Held.read(folder))


def _what_it_is(folder: Path) -> str:
    """Return what to do about a folder that is no checkpoint."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter: give the folder of the checkpoint that it was trained on"
    return "give the folder of a Hugging Face checkpoint"


def _read_headers(folder: Path, weights: WeightFiles) -> tuple[dict[str, TensorSpec], list[str]]:
    """Return every tensor of the weight files, and what is wrong with them."""
    tensors: dict[str, TensorSpec] = {}
    faults = list(weights.faults)
    for file in weights.shards:
        try:
            is_gguf = file.endswith(".gguf")
            entries: Mapping[str, Any] = (
                read_gguf_header(folder / file).tensors if is_gguf else read_header(folder / file)
            )
        except (HeaderError, GgufError) as error:
            faults.append(str(error))
            continue
        except OSError as error:
            faults.append(f"{file} cannot be read ({error.strerror})")
            continue
        tensors |= {name: TensorSpec(file=folder / file, **e._asdict()) for name, e in entries.items()}
        missing = [name for name, place in weights.places.items() if place == file and name not in entries]
        faults += [f"{file} lacks tensor {name!r}, which the index says it holds" for name in missing[:5]]
    for name, place in weights.places.items():
        # A later file wins where transformers reads them.
        if name in tensors and tensors[name].file != folder / place and not faults:
            later = tensors[name].file.relative_to(folder)
            faults.append(f"{place} and {later} both hold tensor {name!r}; the index names the first of them")
    if not tensors and not faults:
        faults.append(f"{', '.join(weights.shards)} holds no tensors")
    return tensors, faults


def _tensor(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(raw).view(TORCH_DTYPES[dtype]).reshape(shape)
