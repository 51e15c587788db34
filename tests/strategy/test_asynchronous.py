"""FedBuff and FedAsync over the arithmetic world, by hand and beside the strategy they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.experts import ParameterKey
from strategy.baselines.asynchronous import FedAsync, FedBuff
from strategy.baselines.mixing import mix_in
from strategy.staleness import constant, polynomial
from tests.strategy.world import ArithmeticClient, play, settings, zeros

KEY = ParameterKey(0, 1, "fc_in.lora_B")


def three_nodes() -> ArithmeticClient:
    return ArithmeticClient(clusters={1: "ice", 2: "sea", 3: "sea"}, favourite={"ice": 0, "sea": 3})


def test_fedbuff_merges_as_many_as_its_buffer_holds_from_whichever_clusters() -> None:
    strategy, events = play(
        three_nodes(), 3, settings(("ice", "sea"), assign_method="all", buffer_size=3, discount=constant()),
        max_merges=1, kind=FedBuff,
    )  # fmt: skip
    merged = [event for event in events if event["event"] == "merged"]
    assert [(event["cluster"], event["merges"]) for event in merged] == [("ice", 1), ("sea", 1)]
    assert sum(len(event["updates"]) for event in merged) == 3
    assert merged[0]["time_s"] < 100.0, "at once, not at the horizon of 2000 s"
    # Every node moved every expert half the way to its own target; the mean of the three, once.
    client = three_nodes()
    for key, value in strategy.state.values.items():
        expected = np.mean([0.5 * client.target(node, key) for node in (1, 2, 3)], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert strategy.state.version(KEY.expert) == 1


def test_nobody_waits_for_the_buffer_to_fill() -> None:
    strategy, events = play(
        ArithmeticClient(clusters={1: "ice"}, favourite={"ice": 0}), 1,
        settings(("ice",), assign_method="all", buffer_size=2), max_merges=1, kind=FedBuff,
    )  # fmt: skip
    (merged,) = [event for event in events if event["event"] == "merged"]
    assert [update["node"] for update in merged["updates"]] == [1, 1]
    assert strategy.state.dispatches == {1: 2} and merged["time_s"] < 100.0


def test_a_buffer_that_is_not_full_waits_and_is_merged_at_the_end() -> None:
    strategy, events = play(
        three_nodes(), 3, settings(("ice", "sea"), assign_method="all", buffer_size=4),
        max_merges=9, horizon_s=60.0, kind=FedBuff,
    )  # fmt: skip
    merges = {event["merges"]: 0 for event in events if event["event"] == "merged"}
    for event in (event for event in events if event["event"] == "merged"):
        merges[event["merges"]] += len(event["updates"])
    *full, _last = merges.values()
    assert all(count >= 4 for count in full) or len(merges) == 1
    assert not strategy.state.arrivals


def test_fedasync_mixes_each_update_by_its_own_staleness_worked_by_hand() -> None:
    discount = polynomial(0.5)
    strategy, events = play(
        three_nodes(), 2,
        settings(("ice", "sea"), assign_method="all", server_learning_rate=0.8, discount=discount),
        max_merges=2, kind=FedAsync,
    )  # fmt: skip
    merged = [event for event in events if event["event"] == "merged"]
    assert [len(event["updates"]) for event in merged] == [1, 1]
    nodes = [event["updates"][0]["node"] for event in merged]
    stale = [event["updates"][0]["staleness"]["0.1"] for event in merged]
    assert sorted(nodes) == [1, 2] and stale == [0, 1]
    value, client = 0.0, three_nodes()
    for node, s in zip(nodes, stale, strict=True):
        # Both started from zero, and answer with their model: half of their target.
        alpha = 0.8 * (1 + s) ** -0.5
        value = (1 - alpha) * value + alpha * 0.5 * float(client.target(node, KEY)[0, 0])
    np.testing.assert_allclose(strategy.state.values[KEY], value, rtol=1e-6)


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_mixing_lies_between_the_two_and_leaves_the_rest(alpha: float, old: float, new: float) -> None:
    base = {key: value + np.float32(old) for key, value in zeros().items()}
    values = {KEY: np.full_like(base[KEY], new)}
    mixed = mix_in(base, values, {KEY.expert: alpha})
    np.testing.assert_allclose(mixed[KEY], (1 - alpha) * base[KEY] + alpha * values[KEY], atol=1e-5)
    assert all(mixed[key] is base[key] for key in base if key != KEY)
    assert mix_in(base, values, {KEY.expert: 1.0})[KEY] == pytest.approx(values[KEY])


def test_a_strength_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength in \[0, 1\], got 1\.5; lower the server's rate"):
        mix_in(zeros(), {KEY: zeros()[KEY]}, {KEY.expert: 1.5})
