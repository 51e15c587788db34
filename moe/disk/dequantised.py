"""A quantised checkpoint seen as its dequantised copy: whoever reads a tensor gets numbers to compute with.

Names, shapes and types are those that the copy would have, so that nothing above this file knows of formats.
What is read is expanded there and then, tensor by tensor, and a tensor in chunks.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moe.disk.headers import QUANTISED
from moe.disk.shards import AS_IT_IS, TORCH_DTYPES, Checkpoint, Part, Source, TensorSpec, locate
from moe.formats.find import ADVICE, find_packed, without_quantization
from moe.formats.packed import PackedTensors, Raw
from moe.held import Extent

_NAMES: Mapping[torch.dtype, str] = {
    dtype: name for name, dtype in TORCH_DTYPES.items() if dtype.is_floating_point
}


class DequantisedCheckpoint(Checkpoint):
    """The tensors of a quantised checkpoint as its dequantised copy would have them.

    Parameters
    ----------
    stored : Checkpoint
        What is on disk.
    packed : PackedTensors
        Which of its tensors are what.
    dtype : torch.dtype
        Type of the numbers.
    described : collection of str
        Tensors on disk that were read to know the shapes of others: without them nothing can be opened.
    """

    def __init__(
        self, stored: Checkpoint, packed: PackedTensors, dtype: torch.dtype, described: Collection[str] = ()
    ) -> None:
        used = {name for entry in packed.tensors.values() for name in entry.sources.values()}
        tensors = {
            name: spec
            for name, spec in stored.tensors.items()
            if name not in used and name not in packed.passed_over
        }
        for name, entry in packed.tensors.items():
            first = stored.tensors[next(iter(entry.sources.values()))]
            num_bytes = torch.Size(entry.shape).numel() * dtype.itemsize
            tensors[name] = replace(first, dtype=_NAMES[dtype], shape=entry.shape, start=0, stop=num_bytes)
        config = without_quantization(stored.config)
        super().__init__(stored.folder, config, tensors, stored.weights, stored.held)
        self.stored = stored
        self.format = packed.title
        self.packed = packed.tensors
        self._dtype = dtype
        self.described = frozenset(described)

    def map(self, name: str, part: Part | None = None) -> Tensor:
        """Return a tensor by its name in the copy; one that is packed owns its memory."""
        if name not in self.packed:
            self.bytes_read += locate(self.stored.tensors[name], part)[1]
            return self.stored.map(name, part)
        return self.read_joined([name], part).reshape(self._shape(name, part))

    def extent(self, name: str, part: Part | None = None) -> Extent:
        """Return where the bytes of a tensor on disk, or of a part of it, lie."""
        return self.stored.extent(name, part)

    @property
    def in_files(self) -> Mapping[str, TensorSpec]:
        """Every tensor as it lies in the files, by its name there."""
        return self.stored.tensors

    def made_of(self, name: str) -> list[str]:
        """Return the tensors in the files that a tensor is made of."""
        entry = self.packed.get(name)
        return [name] if entry is None else list(entry.sources.values())

    def sources(self, name: str, part: Part | None = None) -> list[Source]:
        """Return the tensors on disk, or parts of them, that only this tensor or part of it is made of."""
        entry = self.packed.get(name)
        if entry is None:
            return [(name, part)]
        return [
            (source, part)
            for role, source in entry.sources.items()
            if source not in self.described and (part is None or role not in entry.whole)
        ]

    def read_joined(self, names: Sequence[str], part: Part | None = None) -> Tensor:
        """Return tensors one after another along the first axis, as `Checkpoint.read_joined`."""
        if not self.packed.keys() & set(names):
            self.bytes_read += sum(locate(self.stored.tensors[name], part)[1] for name in names)
            return self.stored.read_joined(names, part)
        return self.expand(names, part, (self._map_raw(name, part) for name in names))

    def _map_raw(self, name: str, part: Part | None) -> dict[str, Tensor]:
        """Return `read_raw` in mapped pages, which go with it; freed memory would stay among what is kept."""
        self.bytes_read += self.raw_bytes(name, part)
        entry = self.packed.get(name)
        sources = {AS_IT_IS: name} if entry is None else entry.sources
        whole: frozenset[str] = frozenset() if entry is None else entry.whole
        return {
            role: self.stored.map(source, None if role in whole else part) for role, source in sources.items()
        }

    def read_raw(self, name: str, part: Part | None = None) -> dict[str, Tensor]:
        """Return what a tensor of the copy, or a part of it, is made of, by role; in the file's few bits."""
        entry = self.packed.get(name)
        sources = {AS_IT_IS: name} if entry is None else entry.sources
        whole = frozenset() if entry is None else entry.whole
        raw: dict[str, Tensor] = {}
        for role, stored_name in sources.items():
            own = None if role in whole else part
            spec = self.stored.tensors[stored_name]
            self.bytes_read += locate(spec, own)[1]
            read = self.stored.read_joined([stored_name], own) if spec.num_bytes else torch.empty(spec.shape)
            raw[role] = read.reshape(spec.shape) if own is None else read
        return raw

    def raw_bytes(self, name: str, part: Part | None = None) -> int:
        """Return the bytes of `read_raw`."""
        entry = self.packed.get(name)
        if entry is None:
            return locate(self.stored.tensors[name], part)[1]
        return sum(
            locate(self.stored.tensors[source], None if role in entry.whole else part)[1]
            for role, source in entry.sources.items()
        )

    def expand(self, names: Sequence[str], part: Part | None, raws: Iterable[Raw]) -> Tensor:
        """Return what `read_joined` does, of parts that were read before."""
        shapes = [self._shape(name, part) for name in names]
        out: Tensor | None = None
        first = 0
        for name, shape, raw in zip(names, shapes, raws, strict=True):
            if out is None:
                device = next(iter(raw.values())).device
                size = (sum(shape[0] for shape in shapes), *shape[1:])
                out = torch.empty(size, dtype=self._dtype, device=device)
            place = out[first : first + shape[0]]
            entry = self.packed.get(name)
            if entry is None:
                place.copy_(raw[AS_IT_IS])
            else:
                entry.codec.expand(raw, place)
            first += shape[0]
        assert out is not None
        return out

    def _shape(self, name: str, part: Part | None) -> tuple[int, ...]:
        shape = self.tensors[name].shape
        return shape if part is None else (shape[0] // part.count, *shape[1:])


def dequantised(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Return a checkpoint as its dequantised copy; the same if it is not quantised.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is on disk.
    dtype : torch.dtype
        Type of the numbers.

    Raises
    ------
    ValueError
        As `moe.formats.find.find_packed`.
    """
    where = f"checkpoint {checkpoint.folder}"
    described: list[str] = []

    def read(name: str) -> Tensor:
        described.append(name)
        return checkpoint.read_joined([name])

    packed = find_packed(where, checkpoint.config, checkpoint.tensors, read)
    if packed is None:
        return checkpoint
    found = DequantisedCheckpoint(checkpoint, packed, dtype, described)
    strange = [name for name, spec in found.tensors.items() if spec.dtype in QUANTISED]
    if strange:
        raise ValueError(
            f"{where} holds {strange[0]!r} as {found.tensors[strange[0]].dtype}, which is no weight of "
            f"{packed.title}; {ADVICE}"
        )
    return found


def configured_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the type that a quantised checkpoint is meant to be computed in: its config's, else bfloat16."""
    for part in (checkpoint.config, checkpoint.config.get("text_config")):
        said = (part.get("dtype") or part.get("torch_dtype")) if isinstance(part, Mapping) else None
        dtype = getattr(torch, str(said).removeprefix("torch."), None)
        if dtype in (torch.float32, torch.bfloat16, torch.float16):
            return dtype
    return torch.bfloat16
