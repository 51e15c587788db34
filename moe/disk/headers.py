"""The header of a safetensors file: which tensors it holds, and whether the library would open it.

safetensors refuses a file whose header and data do not match exactly, wherever the fault lies. What is
read here without it is held to the same rules, so that no file is accepted today and refused when its
model is loaded. Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

# A header is JSON of about 100 bytes a tensor; safetensors itself refuses more than this.
_MAX_HEADER_BYTES = 100_000_000
_BITS: Mapping[str, int] = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
QUANTISED = frozenset(name for name in _BITS if name.startswith(("F8", "F6", "F4")))
"""Types of safetensors that weights have only once they are quantised."""


class Entry(NamedTuple):
    """One tensor of a file: its type (safetensors name), shape, and bytes ``[start, stop)`` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class HeaderError(ValueError):
    """Say in a few words what is wrong with a file, its name first."""


def read_header(file: Path) -> dict[str, Entry]:
    """Return the tensors of a safetensors file by name; no value is read.

    Parameters
    ----------
    file : Path
        An existing file.

    Raises
    ------
    HeaderError
        If safetensors would refuse it: cut short, no header, tensors that overlap, bytes left over.
    OSError
        If it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise HeaderError(f"{file.name} is not a safetensors file or is cut short ({size} bytes)")
        header = _parse(file.name, stream.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(file.name, name, entry) for name, entry in header.items()}
    _check_layout(file.name, entries, data_bytes=size - 8 - length)
    first = 8 + length
    return {name: e._replace(start=first + e.start, stop=first + e.stop) for name, e in entries.items()}


def _parse(file: str, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw, object_pairs_hook=_once)
    except HeaderError as error:
        raise HeaderError(f"{file} names {error} twice in its header") from None
    except (ValueError, RecursionError):
        raise HeaderError(f"{file} has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise HeaderError(f"{file} has a header that is not a JSON object")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise HeaderError(repr(next(name for name in names if names.count(name) > 1)))
    return content


def _entry(file: str, name: str, entry: Any) -> Entry:
    """Return one entry of a header, with its bytes counted from the first of the data."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise HeaderError(f"{file} has a header whose entry of {name!r} is not one of a tensor") from None
    numbers = (*shape, start, stop)
    if any(type(number) is not int or number < 0 for number in numbers) or start > stop:
        raise HeaderError(f"{file} has a header whose entry of {name!r} has a shape or place of no tensor")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise HeaderError(f"{file} holds {name!r} as {dtype}, not one of {', '.join(_BITS)}")
    if 8 * (stop - start) != prod(shape) * _BITS[dtype]:
        raise HeaderError(f"{file}: {name!r} of shape {list(shape)} has {stop - start} bytes in the header")
    return Entry(dtype, shape, start, stop)


def _check_layout(file: str, entries: Mapping[str, Entry], data_bytes: int) -> None:
    """Refuse tensors that share bytes, bytes that no tensor has, and a file that ends too soon."""
    needed = max((entry.stop for entry in entries.values()), default=0)
    if data_bytes < needed:
        raise HeaderError(f"{file} is cut short: {data_bytes} of {needed} bytes of data")
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != place:
            what = "shares bytes with another tensor" if entry.start < place else "lies behind unused bytes"
            raise HeaderError(f"{file}: {name!r} {what}, by the header")
        place = entry.stop
    if data_bytes > place:
        raise HeaderError(f"{file} has {data_bytes - place} bytes that are of no tensor")
