"""Arrays on the wire: whole as they are, and in few bits as near as those allow, right in the mean."""

import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ParameterKey
from strategy.wire.arrays import Bits, decode_arrays, encode_arrays, pack_arrays

KEY = ParameterKey(3, 17, "fc_in.lora_B")
NAME = "3.17.fc_in.lora_B"
VALUES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-1e4, 1e4, width=32),
)


def sent(values: NDArray[np.float32], bits: Bits, seed: int = 0) -> NDArray[np.float32]:
    return decode_arrays(pack_arrays({KEY: values}, bits, np.random.default_rng(seed)))[KEY]


def size(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


def test_32_bits_are_the_bytes_of_the_plain_record() -> None:
    arrays: ExpertArrays = {KEY: np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    packed, plain = pack_arrays(arrays, 32, np.random.default_rng(0)), encode_arrays(arrays)
    assert list(packed) == list(plain) == [NAME]
    assert packed[NAME].data == plain[NAME].data


@given(VALUES)
def test_16_bits_are_those_of_float16(values: NDArray[np.float32]) -> None:
    assert (sent(values, 16) == values.astype(np.float16).astype(np.float32)).all()


@given(VALUES, st.integers(0, 99))
def test_8_bits_are_off_by_less_than_a_step_of_their_row_or_column(
    values: NDArray[np.float32], seed: int
) -> None:
    axis = None if values.ndim == 1 else 1 - int(np.argmin(values.shape))
    step = np.abs(values).max(axis=axis, keepdims=True) / 127
    found = sent(values, 8, seed)
    assert found.dtype == np.float32 and found.shape == values.shape
    assert (np.abs(found - values) <= step * 1.001 + 1e-37).all()  # below, scales are no normal numbers
    assert (found[values == 0] == 0).all()


def test_8_bits_are_right_in_the_mean() -> None:
    values = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    draws = np.stack([sent(values, 8, seed) for seed in range(400)])
    step = np.abs(values).max(axis=0) / 127
    # The mean of 400 draws of one step's width is off by a fortieth of it, at four sigmas a tenth.
    assert (np.abs(draws.mean(axis=0) - values) < 0.1 * step).all()
    assert (draws.std(axis=0).max(axis=0) > 0.2 * step).all()


def test_a_number_beyond_float16_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=rf"{NAME} of an update holds 7e\+04, and float16 ends at 65504"):
        sent(np.array([1.0, 7e4], np.float32), 16)


def test_an_update_of_8_bits_is_about_a_quarter_on_the_wire() -> None:
    arrays: ExpertArrays = {KEY: np.ones((512, 8), np.float32)}
    plain, half, eighth = (size(pack_arrays(arrays, bits, np.random.default_rng(0))) for bits in (32, 16, 8))
    assert half / plain == pytest.approx(0.5, abs=0.01)
    assert eighth / plain == pytest.approx(0.25, abs=0.03)


@given(VALUES, st.integers(0, 99))
def test_whole_numbers_of_steps_come_back_as_they_were(values: NDArray[np.float32], seed: int) -> None:
    signs = np.sign(values).astype(np.float32)  # every one a step's edge, whatever the chance
    assert (sent(127 * signs, 8, seed) == 127 * signs).all()


@pytest.mark.parametrize(
    ("received", "told"),
    [
        (np.ones((4, 6), np.int8), "an array of [4, 6] has no room for scales"),
        (np.ones(3, np.int8), "an array of [3] has no room for scales"),
        (np.ones((2, 9, 9), np.int8), "has no room for scales"),
        (np.full(9, -1, np.int8), "its scales are not all finite"),  # four bytes of ones are no number
        (np.array([7] * 9 + [0, 0, 0x80 - 256, 0xBF - 256], np.int8), "finite and >= 0"),  # a scale of -1.0
    ],
)  # fmt: skip
def test_hostile_scales_are_refused(received: NDArray[np.int8], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        decode_arrays(ArrayRecord({NAME: Array(received)}))
