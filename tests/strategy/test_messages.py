"""What is encoded is decoded; equal content gives equal bytes."""

import numpy as np
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from moe.experts import ExpertArrays, ParameterKey
from strategy.messages import (
    ExpertUpdate,
    Profile,
    decode_arrays,
    encode_arrays,
    profile_instruction,
    profile_reply,
    read_profile,
    read_task,
    read_update,
    train_instruction,
    update_reply,
)
from tests.fake_grid import FakeGrid

FakeGrid(lambda _: RecordDict())  # gives messages a run to belong to

keys = st.builds(
    ParameterKey,
    st.integers(0, 99),
    st.integers(0, 999),
    st.sampled_from(["fc_in.lora_B", "fc_out.lora_B", "fc_in.weight"]),
)
expert_arrays = st.dictionaries(
    keys,
    arrays(np.float32, array_shapes(min_dims=1, max_dims=2, max_side=4), elements=st.floats(-9, 9, width=32)),
    min_size=1,
    max_size=6,
)


def assert_same(one: ExpertArrays, other: ExpertArrays) -> None:
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])
        assert one[key].dtype == other[key].dtype


@given(expert_arrays)
def test_arrays_survive_the_wire_and_equal_content_gives_equal_bytes(values: ExpertArrays) -> None:
    assert_same(decode_arrays(encode_arrays(values)), values)
    backwards = dict(reversed(values.items()))
    one, other = encode_arrays(values), encode_arrays(backwards)
    assert [(name, array.data) for name, array in one.items()] == [(n, a.data) for n, a in other.items()]


@given(expert_arrays, st.integers(0, 1000))
def test_a_training_message_and_its_update_survive_the_wire(values: ExpertArrays, dispatch: int) -> None:
    message = train_instruction(7, values, dispatch)
    task = read_task(message)
    assert (task.dispatch, task.reply_with) == (dispatch, "delta")
    assert_same(task.values, values)
    update = ExpertUpdate(arrays=values, num_examples=5, train_loss=2.25, local_steps=4)
    read = read_update(update_reply(update, message), values, own_examples=5)
    assert_same(read.arrays, values)
    assert (read.num_examples, read.train_loss, read.local_steps) == (5, 2.25, 4)


@given(st.lists(st.lists(st.integers(0, 1000), min_size=2, max_size=9), min_size=1, max_size=12))
def test_a_profile_survives_the_wire(mass: list[list[int]]) -> None:
    profile = Profile(
        cluster="sea",
        devices=(3, 1, 2),
        mass=tuple(np.array(layer, np.float64) for layer in mass),
        num_examples=12,
        memory_bytes=10**9,
        fingerprint="abc",
    )
    read = read_profile(profile_reply(profile, profile_instruction(4)))
    assert (read.cluster, read.devices, read.num_examples, read.memory_bytes, read.fingerprint) == (
        "sea", (3, 1, 2), 12, 10**9, "abc",
    )  # fmt: skip
    assert len(read.mass) == len(mass)
    for one, other in zip(read.mass, profile.mass, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stock_strategys_message_asks_for_values_and_counts_rounds() -> None:
    from flwr.app import ConfigRecord

    content = RecordDict(
        {"arrays": encode_arrays({ParameterKey(0, 0, "fc_in.lora_B"): np.ones((1, 1), np.float32)})}
    )
    content["config"] = ConfigRecord({"server-round": 3, "reply-with": "values"})
    task = read_task(Message(content, 1, "train"))
    assert (task.dispatch, task.reply_with) == (3, "values")
