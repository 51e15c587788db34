"""FedAvg that ends with the horizon and tells what came of each round."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from strategy.baselines.synchronous import BoundedFedAvg, HorizonReachedError, Round
from strategy.messages import ARRAYS, METRICS, read_task
from tests.fake_grid import FakeGrid


def client(message: Message) -> RecordDict:
    if message.metadata.dst_node_id == 3:
        raise RuntimeError("the battery is empty")
    metrics = MetricRecord({"num-examples": 1, "train-loss": float(message.metadata.dst_node_id)})
    return RecordDict({ARRAYS: ArrayRecord({"0.0.a": Array(np.ones(2, np.float32))}), METRICS: metrics})


def average(
    grid: FakeGrid,
    is_over: Callable[[], bool],
    num_rounds: int = 5,
    measured: list[float] | None = None,
    **options: float,
) -> list[Round]:
    rounds: list[Round] = []
    strategy = BoundedFedAvg(
        num_nodes=len(grid.node_ids), fraction=1.0, seed=1, is_over=is_over, on_round=rounds.append,
        on_wait=print, **options,
    )  # fmt: skip
    arrays = ArrayRecord({"0.0.a": Array(np.zeros(2, np.float32))})

    def evaluate(_: int, arrays: ArrayRecord) -> None:
        (measured if measured is not None else []).append(float(arrays["0.0.a"].numpy()[0]))

    try:
        strategy.start(grid, arrays, num_rounds, train_config=ConfigRecord(), evaluate_fn=evaluate)
    except HorizonReachedError:
        rounds.append(Round(number=0, asked=0, answered=0, failures={}, is_cut=False, train_loss=None))
    return rounds


def test_every_round_says_who_answered_and_why_others_failed() -> None:
    first, second = average(FakeGrid(client, num_nodes=3), lambda: False, num_rounds=2)
    assert (first.number, first.asked, first.answered, first.is_cut) == (1, 3, 2, False)
    assert first.train_loss == 1.5 and second.number == 2
    assert list(first.failures) == [3] and "the battery is empty" in first.failures[3]


def test_no_round_begins_after_the_horizon() -> None:
    grid = FakeGrid(client, num_nodes=2)
    rounds = average(grid, lambda: len(grid.pushed) >= 4)
    assert [done.number for done in rounds] == [1, 2, 0]
    assert len(grid.pushed) == 4


class Deaf(FakeGrid):
    """The second node's answers never come."""

    def send_and_receive(self, messages: object, *, timeout: float | None = None) -> list[Message]:
        return super().send_and_receive(messages, timeout=timeout)[:1]  # type: ignore[arg-type]


def test_a_round_is_cut_when_the_horizon_comes_before_the_last_answer() -> None:
    grid = Deaf(client, num_nodes=2)
    (cut, end) = average(grid, lambda: bool(grid.pushed))
    assert (cut.answered, cut.asked, cut.is_cut, end.number) == (1, 2, True, 0)


def test_nothing_of_a_cut_round_is_kept() -> None:
    whole, cut = list[float](), list[float]()
    average(FakeGrid(client, num_nodes=2), lambda: False, num_rounds=1, measured=whole)
    grid = Deaf(client, num_nodes=2)
    average(grid, lambda: bool(grid.pushed), measured=cut)
    assert whole == [0.0, 1.0] and cut == [0.0, 0.0]


def test_the_servers_rate_is_how_far_it_goes_to_the_mean() -> None:
    measured: list[float] = []
    average(FakeGrid(client, num_nodes=2), lambda: False, 2, measured, server_learning_rate=0.25)
    assert measured == [0.0, 0.25, 0.25 + 0.25 * 0.75]


def test_fedprox_says_its_weight_to_the_clients_and_fedavg_says_none() -> None:
    said = []
    for weight in (0.0, 0.5):
        grid = FakeGrid(client, num_nodes=1)
        average(grid, lambda: False, num_rounds=1, proximal_mu=weight)
        said.append(read_task(grid.pushed[0]).proximal_mu)
    assert said == [0.0, 0.5]


def test_who_is_asked_does_not_depend_on_what_else_draws_random_numbers() -> None:
    import random

    def order() -> list[int]:
        grid = FakeGrid(client, num_nodes=6)
        average(grid, lambda: random.random() < 0, num_rounds=2)
        return [message.metadata.dst_node_id for message in grid.pushed]

    random.seed(5)
    first = order()
    random.seed(6)
    assert order() == first


def test_a_round_waits_for_the_nodes_it_needs_and_no_longer_than_the_horizon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[str] = []
    monkeypatch.setattr("strategy.baselines.synchronous.POLL_INTERVAL_S", 0.0)
    grid = FakeGrid(client, num_nodes=1)
    strategy = BoundedFedAvg(
        num_nodes=2, fraction=1.0, seed=1, is_over=lambda: len(waits) > 2, on_round=print,
        on_wait=waits.append,
    )  # fmt: skip
    with pytest.raises(HorizonReachedError):
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    assert waits[0] == "waiting for nodes: 1 of at least 2 are here"
