"""The header of a GGUF file: which tensors it holds, of which type, and where; no value is read.

Read by ourselves, as those of safetensors are: a file cut short must be refused before anything is allocated,
and the reader of the package ``gguf`` takes seconds for the words of a large vocabulary.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
# Bytes of a value of metadata, by its type.
_FIXED: Mapping[int, int] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_DIMENSIONS = 4
BLOCK_TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
"""Types of llama.cpp that hold several numbers in a block of bytes."""
# A vocabulary of a million words of metadata is far below these; a damaged count is far above.
_MAX_ENTRIES, _MAX_BYTES = 1 << 24, 1 << 31


class Located(NamedTuple):
    """One tensor: its type, its shape in the file's own units, and bytes ``[start, stop)`` of the file.

    Of a quantised type the last axis counts bytes; of a plain one (F32, F16, BF16, ...) numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class GgufError(ValueError):
    """Say in a few words what is wrong with a file, its name first."""


class Header(NamedTuple):
    """What a file says of itself: its tensors by name, and some of its metadata."""

    tensors: dict[str, Located]
    architecture: str
    num_shards: int


def read_gguf_header(file: Path) -> Header:
    """Return what a GGUF file says of itself.

    Parameters
    ----------
    file : Path
        An existing file.

    Raises
    ------
    GgufError
        If it is no GGUF file of a known version, is cut short, or names a type that nobody here knows.
    OSError
        If it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        try:
            return _read(_Words(stream, size), file.name, size)
        except (struct.error, EOFError):
            raise GgufError(f"{file.name} is cut short within its header ({size} bytes)") from None


def _read(words: "_Words", file: str, size: int) -> Header:
    if words.take(4) != MAGIC:
        raise GgufError(f"{file} is not a GGUF file: it does not begin with {MAGIC.decode()}")
    if (version := words.number(4)) not in VERSIONS:
        raise GgufError(f"{file} is GGUF of version {version}; {' and '.join(map(str, VERSIONS))} are read")
    num_tensors, num_fields = words.number(8), words.number(8)
    if max(num_tensors, num_fields) > _MAX_ENTRIES:
        raise GgufError(f"{file} is damaged: it says it has {num_tensors} tensors and {num_fields} fields")
    alignment, architecture, num_shards = _DEFAULT_ALIGNMENT, "", 1
    for _ in range(num_fields):
        key, kind = words.text(), words.number(4)
        if key == b"general.alignment":
            alignment = words.number(_FIXED.get(kind, 0))
        elif key == b"general.architecture" and kind == _STRING:
            architecture = words.text().decode("utf-8", "replace")
        elif key == b"split.count":
            num_shards = words.number(_FIXED.get(kind, 0))
        else:
            words.skip_value(kind)
    entries = list(_entries(words, file, num_tensors))
    if alignment < 1:
        raise GgufError(f"{file} is damaged: its alignment is {alignment}")
    data = -(-words.place // alignment) * alignment
    found: dict[str, Located] = {}
    for name, (dtype, shape, start, stop) in entries:
        if name in found:
            raise GgufError(f"{file} names {name!r} twice")
        if data + stop > size:
            raise GgufError(f"{file} is cut short: {name!r} ends at byte {data + stop}, the file at {size}")
        found[name] = Located(dtype, shape, data + start, data + stop)
    return Header(found, architecture, num_shards)


def _entries(words: "_Words", file: str, count: int) -> Iterator[tuple[str, Located]]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # a third of a second: only for GGUF

    for _ in range(count):
        name = words.text().decode("utf-8", "replace")
        num_dimensions = words.number(4)
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise GgufError(f"{file} is damaged: {name!r} has {num_dimensions} dimensions")
        # The first is the fastest there, the last here.
        shape = tuple(words.number(8) for _ in range(num_dimensions))[::-1]
        kind, start = words.number(4), words.number(8)
        try:
            dtype = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[dtype]
        except (ValueError, KeyError):
            raise GgufError(f"{file} holds {name!r} in type {kind}, which is not known here") from None
        if block > 1 and dtype.name not in BLOCK_TYPES:
            raise GgufError(f"{file} holds {name!r} in {dtype.name}, which is not known here")
        if shape[-1] % block:
            raise GgufError(
                f"{file}: rows of {name!r} have {shape[-1]} numbers, and {dtype.name} has blocks of {block}"
            )
        if block > 1:
            shape = (*shape[:-1], shape[-1] // block * block_bytes)
            num_bytes = prod(shape)
        else:
            num_bytes = prod(shape) * block_bytes
        yield name, Located(dtype.name, shape, start, start + num_bytes)


class _Words:
    """A header read from front to back, little-endian."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    @property
    def place(self) -> int:
        return self._stream.tell()

    def take(self, count: int) -> bytes:
        if count > min(_MAX_BYTES, self._size - self.place):
            raise EOFError
        return self._stream.read(count)

    def number(self, num_bytes: int) -> int:
        return int.from_bytes(self.take(num_bytes), "little")

    def text(self) -> bytes:
        return self.take(self.number(8))

    def skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            of, count = self.number(4), self.number(8)
            if of in _FIXED:
                self._skip(count * _FIXED[of])
            else:
                for _ in range(count):
                    self.skip_value(of)
        elif kind in _FIXED:
            self._skip(_FIXED[kind])
        else:
            raise EOFError  # what no version has: the file is damaged here

    def _skip(self, count: int) -> None:
        if count > self._size - self.place:
            raise EOFError
        self._stream.seek(count, 1)
