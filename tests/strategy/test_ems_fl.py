"""The algorithm end to end, on arithmetic: who is asked, what is merged, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from moe.experts import ExpertId, ParameterKey
from strategy.messages import ExpertUpdate, Profile, read_task, update_reply
from strategy.staleness import constant, polynomial
from strategy.wire.arrays import encode_arrays
from tests.strategy.world import SHAPE, ArithmeticClient, play, settings, zeros

TWO = {1: "sea", 2: "ice"}


def two_clusters(**changes: object) -> ArithmeticClient:
    return ArithmeticClient(clusters=TWO, favourite={"sea": 1, "ice": 3}, **changes)  # type: ignore[arg-type]


def test_each_cluster_trains_the_experts_its_data_uses_and_nobody_elses() -> None:
    client = two_clusters()
    strategy, events = play(client, 2, settings(("sea", "ice")))
    assert strategy.state.assignment is not None
    assert strategy.state.assignment.experts == {
        "sea": (ExpertId(0, 1), ExpertId(2, 1)),
        "ice": (ExpertId(0, 3), ExpertId(2, 3)),
    }
    for key, value in strategy.state.values.items():
        if key.index in (1, 3):
            assert (value > 0).all()
        else:
            np.testing.assert_array_equal(value, zeros()[key])
    assert [event["event"] for event in events][:3] == ["profiled", "profiled", "assigned"]


def test_the_routing_of_all_devices_of_a_cluster_counts_not_only_the_first() -> None:
    class Mixed(ArithmeticClient):
        def profile(self, node: int) -> Profile:
            mass = np.array([5.0, 4.0, 0.0, 0.0]) if node == 1 else np.array([0.0, 4.0, 5.0, 0.0])
            return replace(super().profile(node), mass=(mass, mass))

    client = Mixed(clusters={1: "sea", 2: "sea"}, favourite={"sea": 0})
    strategy, _ = play(client, 2, settings(("sea",)), max_merges=1)
    assert strategy.state.assignment is not None
    assert strategy.state.assignment.experts["sea"] == (ExpertId(0, 1), ExpertId(2, 1))


def test_two_merges_of_a_lone_node_follow_the_recursion_worked_by_hand() -> None:
    # Node 1 moves halfway to its target t: 0, t/2, 3t/4. Its updates are never stale.
    client = ArithmeticClient(clusters={1: "sea"}, favourite={"sea": 2})
    strategy, events = play(client, 1, settings(("sea",)), max_merges=2)
    key = ParameterKey(2, 2, "fc_in.lora_B")
    np.testing.assert_allclose(strategy.state.values[key], 0.75 * client.target(1, key), rtol=1e-6)
    merges = [event for event in events if event["event"] == "merged"]
    assert [event["versions"]["2.2"] for event in merges] == [1, 2]
    assert all(update["staleness"]["2.2"] == 0 for event in merges for update in event["updates"])


@pytest.mark.parametrize("delays", [(0, 7), (7, 0), (3, 3)])
def test_the_merged_model_does_not_depend_on_which_cluster_comes_first(delays: tuple[int, int]) -> None:
    """Law 4: the clusters' experts are disjoint, so their merges commute."""
    results = []
    for delay in (lambda number: delays[number % 2], lambda _: 0):
        strategy, _ = play(
            two_clusters(), 2, settings(("sea", "ice")), max_merges=0, horizon_s=400.0, delay=delay
        )
        experts = strategy.state.versions
        results.append((experts, strategy.state.values))
    # Both ran to their fixed point (the targets), whatever the order; compare where they ended.
    for key in zeros():
        np.testing.assert_allclose(results[0][1][key], results[1][1][key], rtol=1e-4, atol=1e-5)


def test_devices_of_one_pass_are_averaged_not_added() -> None:
    client = ArithmeticClient(clusters={1: "sea", 2: "sea", 3: "sea"}, favourite={"sea": 0})
    strategy, events = play(client, 3, settings(("sea",)), max_merges=1)
    key = ParameterKey(0, 0, "fc_in.lora_B")
    mean = np.mean([0.5 * client.target(node, key) for node in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(strategy.state.values[key], mean, rtol=1e-6)
    merge = next(event for event in events if event["event"] == "merged")
    assert [update["devices"] for update in merge["updates"]] == [[101], [102], [103]]


def test_a_straggler_of_the_same_cluster_is_stale_and_discounted() -> None:
    client = ArithmeticClient(clusters={1: "sea", 2: "sea"}, favourite={"sea": 0})
    # Messages 0 and 1 are the profiles, 2 and 3 the first to train; node 2's answer to the last takes
    # longer than a pass is waited for.
    slow = settings(("sea",), merge_wait_s=5.0, discount=polynomial(1.0))
    _, events = play(client, 2, slow, max_merges=8, delay=lambda number: 8 if number == 3 else 0)
    stale = [
        (update["node"], update["staleness"]["0.0"], update["discount"]["0.0"])
        for event in events
        if event["event"] == "merged"
        for update in event["updates"]
        if update["staleness"]["0.0"] > 0
    ]
    assert stale, "node 2's first update must arrive after other merges"
    assert all(node == 2 and discount == pytest.approx(1 / (1 + s)) for node, s, discount in stale)


@pytest.mark.parametrize(("min_updates", "together"), [(0, 3), (2, 2), (3, 3)])
def test_so_many_updates_of_a_pass_are_merged_and_the_rest_when_it_comes(
    min_updates: int, together: int
) -> None:
    client = ArithmeticClient(clusters=dict.fromkeys((1, 2, 3), "sea"), favourite={"sea": 0})
    # Messages 0 to 2 are the profiles, 3 to 5 the first to train; node 3 is slow with its answer.
    rule = settings(("sea",), min_updates=min_updates)
    _, events = play(client, 3, rule, max_merges=9, delay=lambda number: 3 if number == 5 else 0)
    merged = [event for event in events if event["event"] == "merged"]
    assert len(merged[0]["updates"]) == together
    first_of_slow = next(u for event in merged for u in event["updates"] if u["node"] == 3)
    assert (first_of_slow["staleness"]["0.0"] > 0) == (min_updates == 2)


def test_the_next_order_carries_the_merged_values_and_counts_up() -> None:
    client = ArithmeticClient(clusters={1: "sea"}, favourite={"sea": 0})
    play(client, 1, settings(("sea",)), max_merges=3)
    assert client.trained[:3] == [(1, 0), (1, 1), (1, 2)]


def broken_update(kind: str, message: Message, good: RecordDict) -> RecordDict:
    """Return a reply that must be refused."""
    values = read_task(message).values
    delta = {key: np.full(SHAPE, 0.5, np.float32) for key in values}
    examples = 10
    first = next(iter(delta))
    if kind == "nan":
        delta[first] = np.full(SHAPE, np.nan, np.float32)
    elif kind == "inf":
        delta[first] = np.full(SHAPE, np.inf, np.float32)
    elif kind == "shape":
        delta[first] = np.zeros((2, 2), np.float32)
    elif kind == "size":
        delta[first] = np.zeros((1000, 1000), np.float32)
    elif kind == "dtype":
        delta[first] = delta[first].astype(np.float64)
    elif kind == "foreign":
        delta[ParameterKey(0, 3, "fc_in.lora_B")] = np.ones(SHAPE, np.float32)
    elif kind == "examples":
        examples = 11
    elif kind == "empty":
        delta = {}
    update = ExpertUpdate(arrays=delta, num_examples=examples, train_loss=1.0, local_steps=1)
    content = update_reply(update, message).content
    if kind == "no-metrics":
        del content["metrics"]
    if kind == "bytes":
        record = ArrayRecord(dict(content.array_records["arrays"].items()))
        name = next(iter(record))
        record[name].data = b"not an array"
        content["arrays"] = record
    if kind == "name":
        content["arrays"] = ArrayRecord({"weights": next(iter(good.array_records["arrays"].values()))})
    return content


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "NaN or infinite"),
        ("inf", "NaN or infinite"),
        ("shape", r"has shape \(2, 2\); it must be \(3, 2\)"),
        ("size", r"carries 4\d{6} bytes of arrays; what it was asked for has at most"),
        ("dtype", "is float64; it must be float32"),
        ("foreign", "0.3.fc_in.lora_B, which was not assigned"),
        ("examples", "claims 11 examples; the node holds 10"),
        ("empty", "carries no expert"),
        ("no-metrics", "lacks its record 'metrics'"),
        ("bytes", "not a readable array"),
        ("name", "is not layer.expert.name"),
    ],
)
def test_a_hostile_update_is_refused_and_logged_and_the_run_goes_on(kind: str, reason: str) -> None:
    honest = two_clusters()

    def client(message: Message) -> RecordDict:
        content = honest(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 1:
            return broken_update(kind, message, content)
        return content

    strategy, events = play(client, 2, settings(("sea", "ice")), max_merges=3)
    refusals = [event for event in events if event["event"] == "refused"]
    assert refusals and all(event["node"] == 1 for event in refusals)
    import re

    assert re.search(reason, refusals[0]["reason"])
    assert strategy.state.merges == 3
    assert all((strategy.state.values[key] == 0).all() for key in zeros() if key.index == 1)


def test_a_client_that_raises_is_left_alone_in_the_end_and_the_run_goes_on() -> None:
    honest = two_clusters()

    def client(message: Message) -> RecordDict:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 1:
            raise RuntimeError("the disk is full")
        return honest(message)

    strategy, events = play(
        client, 2, settings(("sea", "ice"), max_failures=3), max_merges=0, horizon_s=300.0
    )
    refusals = [event for event in events if event["event"] == "refused"]
    assert [event["failures"] for event in refusals] == [1, 2, 3]
    assert "disk is full" in strategy.state.refused[1]
    assert strategy.state.merges > 5


def test_a_client_that_never_answers_does_not_stop_the_others() -> None:
    honest = two_clusters()

    def client(message: Message) -> RecordDict | None:
        is_silent = message.metadata.message_type == "train" and message.metadata.dst_node_id == 1
        return None if is_silent else honest(message)

    strategy, _ = play(client, 2, settings(("sea", "ice")), max_merges=5)
    assert strategy.state.merges == 5
    assert strategy.state.version(ExpertId(0, 3)) == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "another"}, "is not the server's"),
        ({"memory_bytes": 1100}, "does not hold the shared part and one expert"),
    ],
)
def test_a_node_with_another_base_or_too_little_memory_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    strategy, events = play(two_clusters(**changes), 2, settings(("sea", "ice")), horizon_s=100.0)
    assert strategy.state.assignment is None
    assert all(reason in event["reason"] for event in events)
    assert set(strategy.state.refused) == {1, 2}


def test_a_cluster_that_is_not_heard_is_left_out_after_the_wait() -> None:
    client = ArithmeticClient(clusters={1: "sea"}, favourite={"sea": 1})
    waiting = settings(("sea", "ice"), profile_wait_s=50.0)
    strategy, events = play(client, 1, waiting, max_merges=2)
    assigned = next(event for event in events if event["event"] == "assigned")
    assert assigned["not_heard"] == ["ice"]
    assert assigned["time_s"] >= 50.0
    assert strategy.state.merges == 2


def test_evaluation_is_done_at_the_start_every_so_many_merges_and_at_the_end() -> None:
    from strategy.ems_fl import EmsFl
    from tests.fake_grid import FakeGrid
    from tests.strategy.world import Ticks

    seen: list[int] = []

    def evaluate(merges: int, _: ArrayRecord) -> MetricRecord:
        seen.append(merges)
        return MetricRecord({"loss": 10.0 - merges})

    client = ArithmeticClient(clusters={1: "sea"}, favourite={"sea": 1})
    strategy = EmsFl(settings(("sea",), evaluate_every_merges=2), clock=Ticks())
    result = strategy.start(FakeGrid(client), encode_arrays(zeros()), 5, 1000.0, evaluate_fn=evaluate)
    assert seen == [0, 2, 4, 5]
    assert result.evaluate_metrics_serverapp[4]["loss"] == 6.0

    strategy = EmsFl(settings(("sea",), evaluate_every_merges=2, target_loss=6.5), clock=Ticks())
    strategy.start(FakeGrid(client), encode_arrays(zeros()), 0, 1000.0, evaluate_fn=evaluate)
    assert strategy.state.merges == 4, "the target was reached at the second evaluation"


def test_one_cluster_with_every_expert_and_a_constant_discount_is_synchronous_averaging() -> None:
    """Law 4: against the recursion of FedAvg, three nodes, three rounds."""
    client = ArithmeticClient(
        clusters={1: "sea", 2: "sea", 3: "sea"}, favourite={"sea": 0}, memory_bytes=1000 + 4 * 200
    )
    strategy, _ = play(client, 3, settings(("sea",), discount=constant()), max_merges=3)
    for key, value in strategy.state.values.items():
        expected = np.zeros(SHAPE)
        for _ in range(3):
            expected = np.mean(
                [expected + 0.5 * (client.target(n, key) - expected) for n in (1, 2, 3)], axis=0
            )
        np.testing.assert_allclose(value, expected, rtol=1e-5)
