"""The merge rule: laws 4, 5 and 6, and its edges."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe.experts import ExpertArrays, ParameterKey
from strategy.aggregation import WeightedDelta, merge_experts

KEYS = [ParameterKey(layer, index, "fc_in.lora_B") for layer in (1, 3) for index in (0, 5)]
values = arrays(np.float32, (3, 2), elements=st.floats(-4, 4, width=32))


def expert_arrays(keys: list[ParameterKey]) -> st.SearchStrategy[ExpertArrays]:
    return st.fixed_dictionaries({key: values for key in keys})


@st.composite
def weighted_deltas(draw: st.DrawFn, keys: list[ParameterKey] = KEYS) -> WeightedDelta:
    carried = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    return WeightedDelta(
        delta=draw(expert_arrays(carried)),
        num_examples=draw(st.integers(1, 50)),
        discounts={key.expert: draw(st.floats(0.0, 1.0)) for key in carried},
    )


def slow_merge(base: ExpertArrays, updates: list[WeightedDelta], rate: float) -> ExpertArrays:
    """Element by element, in Python's exact-ish floats: the clear version."""
    merged = {}
    for key, old in base.items():
        new = old.astype(np.float64)
        carrying = [u for u in updates if key in u.delta]
        for at in np.ndindex(*old.shape):
            top = sum(u.num_examples * u.discounts[key.expert] * float(u.delta[key][at]) for u in carrying)
            bottom = sum(u.num_examples for u in carrying)
            new[at] = float(old[at]) + (rate * top / bottom if carrying else 0.0)
        merged[key] = new.astype(np.float32)
    return merged


@given(expert_arrays(KEYS), st.lists(weighted_deltas(), max_size=4), st.floats(0.1, 2.0))
def test_the_merge_equals_its_slow_reference(
    base: ExpertArrays, updates: list[WeightedDelta], rate: float
) -> None:
    merged = merge_experts(base, updates, server_learning_rate=rate)
    expected = slow_merge(base, updates, rate)
    for key in base:
        np.testing.assert_allclose(merged[key], expected[key], rtol=1e-6, atol=1e-6)


def test_a_lone_stale_update_is_discounted_not_renormalised() -> None:
    base = {key: np.zeros((3, 2), np.float32) for key in KEYS}
    late = WeightedDelta(
        delta={KEYS[0]: np.ones((3, 2), np.float32)}, num_examples=7, discounts={KEYS[0].expert: 0.25}
    )
    merged = merge_experts(base, [late])
    np.testing.assert_array_equal(merged[KEYS[0]], np.full((3, 2), 0.25, np.float32))
    assert merged[KEYS[1]] is base[KEYS[1]]


@given(expert_arrays(KEYS), st.lists(weighted_deltas(), min_size=2, max_size=5), st.randoms())
def test_the_order_of_the_updates_of_a_pass_does_not_matter(
    base: ExpertArrays, updates: list[WeightedDelta], random: object
) -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = merge_experts(base, updates), merge_experts(base, shuffled)
    for key in base:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-6, atol=1e-6)


@given(
    expert_arrays(KEYS),
    st.lists(weighted_deltas(KEYS[:2]), min_size=1, max_size=3),
    st.lists(weighted_deltas(KEYS[2:]), min_size=1, max_size=3),
)
def test_merges_of_clusters_with_disjoint_experts_commute_bit_for_bit(
    base: ExpertArrays, first: list[WeightedDelta], second: list[WeightedDelta]
) -> None:
    one = merge_experts(merge_experts(base, first), second)
    other = merge_experts(merge_experts(base, second), first)
    for key in base:
        np.testing.assert_array_equal(one[key], other[key])


@given(
    expert_arrays(KEYS), st.lists(st.tuples(expert_arrays(KEYS), st.integers(1, 99)), min_size=1, max_size=4)
)
def test_all_experts_without_staleness_equal_flowers_own_fedavg(
    base: ExpertArrays, clients: list[tuple[ExpertArrays, int]]
) -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    fresh = {key.expert: 1.0 for key in KEYS}
    updates = [
        WeightedDelta(
            delta={key: value[key] - base[key] for key in KEYS}, num_examples=count, discounts=fresh
        )
        for value, count in clients
    ]
    question = Message(RecordDict(), 1, "train")
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({str(at): Array(value[key]) for at, key in enumerate(KEYS)}),
                    "metrics": MetricRecord({"num-examples": count}),
                }
            ),
            reply_to=question,
        )
        for value, count in clients
    ]
    averaged, _ = FedAvg().aggregate_train(1, replies)
    assert averaged is not None
    merged = merge_experts(base, updates)
    for at, key in enumerate(KEYS):
        np.testing.assert_allclose(merged[key], averaged[str(at)].numpy(), rtol=1e-5, atol=1e-5)


@given(
    arrays(np.float64, (4, 5), elements=st.floats(-2, 2)),
    st.lists(st.tuples(values, st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_the_merged_product_b_a_is_the_weighted_mean_of_the_devices_products(
    a_rI: np.ndarray, devices: list[tuple[np.ndarray, int, float]]
) -> None:
    key, a_rI = KEYS[0], a_rI[:2]
    base = {key: np.zeros((3, 2), np.float32)}
    updates = [
        WeightedDelta(delta={key: b}, num_examples=n, discounts={key.expert: f}) for b, n, f in devices
    ]
    merged = merge_experts(base, updates)[key] @ a_rI
    mean = sum(n * f * (b.astype(np.float64) @ a_rI) for b, n, f in devices) / sum(n for _, n, _ in devices)
    np.testing.assert_allclose(merged, mean, rtol=1e-4, atol=1e-4)


def test_silent_devices_count_in_the_divisor_when_asked_to() -> None:
    base = {KEYS[0]: np.zeros((3, 2), np.float32)}
    update = WeightedDelta(
        delta={KEYS[0]: np.ones((3, 2), np.float32)}, num_examples=10, discounts={KEYS[0].expert: 1.0}
    )
    merged = merge_experts(base, [update], min_total_examples=40)
    np.testing.assert_array_equal(merged[KEYS[0]], np.full((3, 2), 0.25, np.float32))


def test_updates_that_do_not_fit_the_server_are_refused() -> None:
    base = {KEYS[0]: np.zeros((3, 2), np.float32)}
    fresh = {key.expert: 1.0 for key in KEYS}
    foreign = WeightedDelta(delta={KEYS[1]: np.zeros((3, 2), np.float32)}, num_examples=1, discounts=fresh)
    misshapen = WeightedDelta(delta={KEYS[0]: np.zeros((2, 3), np.float32)}, num_examples=1, discounts=fresh)
    empty = WeightedDelta(delta={}, num_examples=0, discounts={})
    for update, reason in (
        (foreign, "does not tune"),
        (misshapen, "must be"),
        (empty, "at least one example"),
    ):
        with pytest.raises(ValueError, match=reason):
            merge_experts(base, [update])


def test_tuned_factors_merge_exactly_for_one_fresh_update_and_not_otherwise() -> None:
    """Plain LoRA: what docs/design.md says of averaging A and B each by itself."""
    a_key, b_key = ParameterKey(0, 0, "fc_in.lora_A"), ParameterKey(0, 0, "fc_in.lora_B")
    base = {a_key: np.eye(2, 3, dtype=np.float32), b_key: np.zeros((4, 2), np.float32)}
    generator = np.random.default_rng(0)

    def update(discount: float) -> WeightedDelta:
        delta = {key: generator.normal(size=value.shape).astype(np.float32) for key, value in base.items()}
        return WeightedDelta(delta=delta, num_examples=3, discounts={a_key.expert: discount})

    def product(arrays: ExpertArrays) -> np.ndarray:
        return arrays[b_key] @ arrays[a_key]

    def device(update: WeightedDelta) -> np.ndarray:
        return product({key: value + update.delta[key] for key, value in base.items()})

    first, second, late = update(1.0), update(1.0), update(0.5)
    np.testing.assert_allclose(product(merge_experts(base, [first])), device(first), rtol=1e-6)
    both = product(merge_experts(base, [first, second]))
    assert not np.allclose(both, (device(first) + device(second)) / 2, rtol=0.05)
    assert not np.allclose(product(merge_experts(base, [late])), 0.5 * device(late), rtol=0.05)
