"""Robust means of a pass: what they withstand, what they do not, and what they do to honest passes."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from moe.experts import ParameterKey
from strategy.aggregation import WeightedDelta, merge_experts
from strategy.defence.outliers import FAR, norm_of, outliers
from strategy.defence.robust import LEAST, Robust, clip_factors, combined
from tests.strategy.world import ArithmeticClient, play, settings

KEY = ParameterKey(0, 1, "fc_in.lora_B")
ROBUST: tuple[Robust, ...] = ("clip", "trimmed-mean", "median")
BASE = {KEY: np.zeros((6, 4), np.float32)}
RNG = np.random.default_rng(3)
TRUTH = RNG.normal(size=(6, 4))
HONEST = [(TRUTH + 0.1 * RNG.normal(size=(6, 4))).astype(np.float32) for _ in range(8)]
ATTACKS: dict[str, NDArray[np.float32]] = {
    "scaled": (1000 * TRUTH).astype(np.float32),
    "turned": (-50 * TRUTH).astype(np.float32),
    "random": (100 * RNG.normal(size=(6, 4))).astype(np.float32),
}


def update(delta: NDArray[np.float32], examples: int = 10, discount: float = 1.0) -> WeightedDelta:
    return WeightedDelta(delta={KEY: delta}, num_examples=examples, discounts={KEY.expert: discount})


def merged(updates: list[WeightedDelta], robust: Robust, **more: Any) -> NDArray[np.float32]:
    return merge_experts(BASE, updates, robust=robust, **more)[KEY]


def error(found: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - TRUTH) / np.linalg.norm(TRUTH))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("robust", ROBUST)
def test_two_hostile_updates_of_ten_do_little_where_the_plain_mean_is_lost(
    robust: Robust, attack: str
) -> None:
    pass_of_ten = [update(delta) for delta in [*HONEST, ATTACKS[attack], ATTACKS[attack]]]
    assert error(merged(pass_of_ten, "none")) > 5
    # Clipped, two of ten still pull as hard as two honest ones: by at most 0.4 of the change.
    assert error(merged(pass_of_ten, robust)) < (0.45 if robust == "clip" else 0.15)


@pytest.mark.parametrize("robust", ROBUST)
def test_half_of_the_updates_are_more_than_any_rule_withstands(robust: Robust) -> None:
    turned = [update(ATTACKS["turned"])] * len(HONEST)
    assert error(merged([*map(update, HONEST), *turned], robust)) > 0.8


@pytest.mark.parametrize("robust", ROBUST)
def test_equal_updates_are_merged_as_by_the_mean(robust: Robust) -> None:
    same = [update(HONEST[0], examples=n) for n in (3, 5, 7, 9)]
    np.testing.assert_allclose(merged(same, robust), merged(same, "none"), rtol=1e-6)


@pytest.mark.parametrize("robust", get_args(Robust))
def test_a_lone_stale_update_is_discounted_not_renormalised(robust: Robust) -> None:
    np.testing.assert_allclose(
        merged([update(HONEST[0], discount=0.25)], robust), 0.25 * HONEST[0], rtol=1e-6
    )


@pytest.mark.parametrize("robust", ROBUST)
def test_stale_updates_stay_small_among_each_other_too(robust: Robust) -> None:
    fresh, stale = ([update(delta, discount=f) for delta in HONEST] for f in (1.0, 0.25))
    np.testing.assert_allclose(merged(stale, robust), 0.25 * merged(fresh, robust), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("robust", ROBUST)
def test_silent_devices_of_a_cluster_count_with_a_delta_of_zero(robust: Robust) -> None:
    updates = [update(delta) for delta in HONEST]
    half = merged(updates, robust, min_total_examples=160)
    np.testing.assert_allclose(half, 0.5 * merged(updates, robust), rtol=1e-5, atol=1e-7)


@given(
    st.lists(arrays(np.float64, 3, elements=st.floats(-5, 5)), min_size=LEAST, max_size=12),
    st.sampled_from(("trimmed-mean", "median")),
    st.data(),
)
def test_a_robust_number_is_that_of_a_slow_reference(
    terms: list[NDArray[np.float64]], rule: Robust, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(terms), max_size=len(terms)))
    dropped = max(1, int(0.2 * len(terms)))
    for at, found in enumerate(combined(terms, weights, rule)):
        pairs = sorted((float(term[at]), weight) for term, weight in zip(terms, weights, strict=True))
        if rule == "median":
            middle = [value for value, _ in pairs[(len(pairs) - 1) // 2 : len(pairs) // 2 + 1]]
            expected = sum(middle) / len(middle)
        else:
            kept = pairs[dropped : len(pairs) - dropped]
            expected = sum(v * w for v, w in kept) / sum(w for _, w in kept)
            if len({v for v, _ in pairs}) < len(pairs):
                continue  # of equal numbers any may be dropped
        assert found == pytest.approx(expected, abs=1e-9)


def test_clipping_leaves_nobody_longer_than_the_median() -> None:
    norms = [1.0, 2.0, 3.0, 40.0, 0.0]
    assert [norm * factor for norm, factor in zip(norms, clip_factors(norms), strict=True)] == [1, 2, 2, 2, 0]
    assert clip_factors([1.0, 50.0]) == [1.0, 1.0]


def test_only_what_is_far_longer_than_its_companions_is_told_of() -> None:
    assert outliers([1.0, 1.1, 0.9, 1.2 * FAR]) == [3]
    assert outliers([1.0, 1.1, 0.9, 0.9 * FAR]) == []
    assert outliers([1.0, 99 * FAR]) == []
    assert (
        norm_of({KEY: np.array([3.0], np.float32), ParameterKey(1, 1, "x"): np.array([4.0], np.float32)}) == 5
    )


class Liar(ArithmeticClient):
    """Of its nodes the last wants to be a thousand times further off than the others."""

    def target(self, node: int, key: ParameterKey) -> NDArray[np.float32]:
        honest = super().target(node, key)
        return 1000 * honest if node == max(self.clusters) else honest


@pytest.mark.parametrize("robust", get_args(Robust))
def test_a_liar_of_four_is_told_of_and_its_cluster_learns_all_the_same(robust: Robust) -> None:
    client = Liar(clusters=dict.fromkeys(range(1, 5), "sea"), favourite={"sea": 0})
    strategy, events = play(client, 4, settings(("sea",), robust=robust), max_merges=1)
    key = ParameterKey(0, 0, "fc_in.lora_B")
    honest = np.mean([0.5 * client.target(node, key) for node in (1, 2, 3)], axis=0)
    found = strategy.state.values[key]
    assert (found > 100 * honest).all() if robust == "none" else (found < 2 * honest).all()
    assert (found > 0.5 * honest).all()
    told = [event for event in events if event["event"] == "outlier"]
    assert [(event["node"], event["cluster"]) for event in told] == [(4, "sea")]
    assert told[0]["norm"] > FAR * told[0]["median_norm"]


def test_an_honest_pass_tells_of_nobody() -> None:
    client = ArithmeticClient(clusters=dict.fromkeys(range(1, 5), "sea"), favourite={"sea": 0})
    _, events = play(client, 4, settings(("sea",)), max_merges=2)
    assert not [event for event in events if event["event"] == "outlier"]
