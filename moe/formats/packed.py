"""A tensor that a file holds in few bits, and how it becomes numbers that a model computes with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

# Elements that are expanded at once: what an operation makes on the way, in float32, stays near 3 MB.
CHUNK_ELEMENTS = 1 << 18

Raw = Mapping[str, Tensor]
"""What a packed tensor is made of, as it lies in the file, by role."""


class Stored(Protocol):
    """What a header says of a tensor: its type (safetensors name) and shape."""

    @property
    def dtype(self) -> str:
        """Name of the type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""


class Codec(Protocol):
    """How the tensors of one kind are expanded."""

    def expand(self, raw: Raw, out: Tensor) -> None:
        """Fill ``out`` with the numbers that the parts mean.

        Parameters
        ----------
        raw : Mapping[str, Tensor]
            The parts by role.
        out : Tensor
            Of the shape they become, in the type they are to be held in, on their device.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One tensor of a model that the file holds in few bits.

    Parameters
    ----------
    shape : tuple[int, ...]
        What it becomes.
    sources : Mapping[str, str]
        Role -> disk name of what it is made of.
    codec : Codec
        How.
    whole : frozenset[str]
        Roles that belong to all of it: they are not divided where the tensor is.
    """

    shape: tuple[int, ...]
    sources: Mapping[str, str]
    codec: Codec
    whole: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensors:
    """The packed tensors of a checkpoint.

    Parameters
    ----------
    title : str
        What people call the format, such as ``fp8, blocks of 128 x 128``.
    tensors : Mapping[str, Packed]
        By the name that a dequantised copy would have them under.
    faults : tuple[str, ...]
        What is wrong with the files.
    passed_over : frozenset[str]
        Disk names that mean nothing for the weights: scales of activations.
    """

    title: str
    tensors: Mapping[str, Packed]
    faults: tuple[str, ...] = ()
    passed_over: frozenset[str] = field(default_factory=frozenset)


Reader = Callable[[str], Tensor]
"""Disk name -> its values; for the few bytes that say what a tensor's shape is."""


class Like(nn.Module):
    """Stands in for the model that transformers' operations ask for the type of a parameter.

    Parameters
    ----------
    name : str
        Of the parameter.
    dtype : torch.dtype
        Of the parameter.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.empty(0, dtype=dtype, device="meta"), False))


def row_chunks(num_rows: int, num_columns: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield ``[first, last)`` rows of chunks, each a multiple of rows, of about `CHUNK_ELEMENTS`."""
    rows = max(1, CHUNK_ELEMENTS // max(1, num_columns * multiple)) * multiple
    for first in range(0, num_rows, rows):
        yield first, min(first + rows, num_rows)
