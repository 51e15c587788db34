"""Expert arrays <-> ArrayRecord, named ``layer.expert.name``: the only file that knows how they lie there.

What all experts of a layer share is named ``layer.shared.name``.

Where an update travels in few bits, an array is float16, or int8 with the bytes of its scales behind its rows
or columns. Both ends know it by the type: a receiver needs no setting.
"""

from typing import Literal, cast

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId, ParameterKey

Bits = Literal[32, 16, 8]
"""Of a number of an update on its way up."""

_LEVELS = 127
_SCALE_BYTES = 4
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
Array32 = NDArray[np.float32]


def encode_arrays(arrays: ExpertArrays) -> ArrayRecord:
    """Return the arrays as a record, keys sorted so that equal content gives equal bytes."""
    return ArrayRecord({wire_name(key): Array(arrays[key]) for key in sorted(arrays)})


def pack_arrays(arrays: ExpertArrays, bits: Bits, rng: np.random.Generator) -> ArrayRecord:
    """Return the arrays as a record in so many bits a number.

    Parameters
    ----------
    arrays : ExpertArrays
        Of an update, finite.
    bits : {32, 16, 8}
        32: as they are, `encode_arrays`. 16: float16. 8: whole numbers of -127 to 127 with a float32 scale
        for each row or each column of an array, whichever are fewer, rounded up or down at random so that
        the mean of what arrives is what was sent (QSGD, Alistarh et al. 2017, arXiv 1610.02132, sec. 3.1).
    rng : Generator
        Draws which way.

    Raises
    ------
    ValueError
        If a number is too large for float16.
    """
    if bits == 32:
        return encode_arrays(arrays)
    record: dict[str, Array] = {}
    for key in sorted(arrays):
        name, values = wire_name(key), arrays[key]
        if bits == 16:
            if np.abs(values).max(initial=0.0) > _LARGEST_FLOAT16:
                raise ValueError(
                    f"{name} of an update holds {np.abs(values).max():.3g}, and float16 ends at "
                    f"{_LARGEST_FLOAT16:g}; set merge.update-bits to 32 or 8, or lower train.learning-rate"
                )
            record[name] = Array(values.astype(np.float16))
        else:
            record[name] = Array(_quantised(values, rng) if values.ndim in (1, 2) else values)
    return ArrayRecord(record)


def _quantised(values: Array32, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return whole numbers, and behind them along the longer axis the four bytes of each scale."""
    along = 0 if values.ndim == 1 or values.shape[1] < values.shape[0] else 1
    scale = (np.abs(values).max(axis=along, keepdims=True, initial=0.0) / _LEVELS).astype(np.float32)
    whole = np.floor(values / np.where(scale > 0, scale, 1) + rng.random(values.shape, np.float32))
    numbers = np.clip(whole, -_LEVELS, _LEVELS).astype(np.int8)
    bytes_behind = np.moveaxis(np.ascontiguousarray(scale)[..., None].view(np.int8), -1, along)
    return np.concatenate([numbers, bytes_behind.reshape(_behind(values.shape, along))], axis=along)


def _behind(shape: tuple[int, ...], along: int) -> tuple[int, ...]:
    return tuple(_SCALE_BYTES if axis == along else size for axis, size in enumerate(shape))


def decode_arrays(record: ArrayRecord) -> ExpertArrays:
    """Return the arrays of a record, those in few bits as float32.

    Raises
    ------
    ValueError
        If a name is not ``layer.expert.name``, its bytes are not an array, or scales are missing or wrong.
    """
    arrays: ExpertArrays = {}
    for name, array in record.items():
        values = decoded(name, array)
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        elif values.dtype == np.int8:
            values = _expanded(name, values)
        arrays[read_name(name)] = values
    return arrays


def _expanded(name: str, received: NDArray[np.generic]) -> Array32:
    along = _scales_along(received.shape)
    if along is None:
        raise ValueError(
            f"{name} is in 8 bits, and an array of {list(received.shape)} has no room for scales"
        )
    numbers, behind = np.split(received, [received.shape[along] - _SCALE_BYTES], axis=along)
    scale = np.ascontiguousarray(np.moveaxis(behind, along, -1)).view(np.float32)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError(f"{name} is in 8 bits, and its scales are not all finite and >= 0")
    return cast(Array32, numbers.astype(np.float32) * np.moveaxis(scale, -1, along))


def _scales_along(shape: tuple[int, ...]) -> int | None:
    """Return the axis that has scales at its end; None where none can have: the longer one, without them."""
    if len(shape) == 1:
        return 0 if shape[0] >= _SCALE_BYTES else None
    if len(shape) != 2:
        return None
    rows, columns = shape
    if columns < rows - _SCALE_BYTES:
        return 0
    return 1 if rows <= columns - _SCALE_BYTES else None


def decoded(name: str, array: Array) -> Array32:
    """Return the values of an array of any type.

    Raises
    ------
    ValueError
        If its bytes are not one.
    """
    try:
        return cast(Array32, array.numpy())
    except (ValueError, TypeError, EOFError, OSError) as fault:  # whatever hostile bytes may raise
        raise ValueError(f"{name} is not a readable array: {fault}") from None


def wire_name(key: ParameterKey) -> str:
    """Return what an array is called on the wire."""
    return f"{key.expert.name}.{key.name}"


def read_name(name: str) -> ParameterKey:
    """Return whose array a name is.

    Raises
    ------
    ValueError
        If it is not ``layer.expert.name``.
    """
    layer, index, *parameter = name.split(".", 2) if name.count(".") > 1 else ("", "")
    try:
        expert = ExpertId.named(f"{layer}.{index}")
        (named,) = filter(None, parameter)
    except ValueError:
        raise ValueError(f"the array name {name!r} is not layer.expert.name") from None
    return ParameterKey(expert.layer, expert.index, named)
