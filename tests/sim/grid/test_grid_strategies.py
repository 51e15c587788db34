"""Flower's own synchronous strategies, unmodified, over the sky."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, Result, Strategy

from sim.plans.plan import Contact
from tests.fake_grid import FakeGrid
from tests.sim.grid.skies import flat, sky

NODES = {"A": [3.0, 5.0], "B": [4.0]}


def every_hour(num_hours: int, first_s: float) -> list[Contact]:
    rises_s = [first_s + 3600.0 * hour for hour in range(num_hours)]
    return [flat(rise_s, rise_s + 300.0, 100.0, 50.0) for rise_s in rises_s]


SKY = {"A": every_hour(20, 100.0), "B": every_hour(20, 1700.0)}


def client(message: Message) -> RecordDict:
    """Move half way towards a place of the node's own; say how far it is."""
    told = message.content.config_records.get("sky")
    node_id = int(str(told["node"])) if told else message.metadata.dst_node_id
    goal = np.array([1.0, 2.0, 3.0]) * node_id
    values = message.content.array_records["arrays"].to_numpy_ndarrays()[0]
    metrics = MetricRecord({"num-examples": 10 * node_id, "distance": float(np.abs(goal - values).sum())})
    if message.metadata.message_type == "evaluate":
        return RecordDict({"metrics": metrics})
    moved = ArrayRecord({"w": Array(values + 0.5 * (goal - values))})
    return RecordDict({"arrays": moved, "metrics": metrics})


def run(strategy: Strategy, grid: Grid, num_rounds: int) -> Result:
    start = ArrayRecord({"w": Array(np.zeros(3))})
    return strategy.start(grid=grid, initial_arrays=start, num_rounds=num_rounds, timeout=8000.0)


def distances(result: Result) -> list[float]:
    return [float(str(metrics["distance"])) for metrics in result.evaluate_metrics_clientapp.values()]


@pytest.mark.parametrize("make", [FedAvg, FedAdam])
def test_a_stock_strategy_learns_the_same_over_the_sky_as_without_it(make: Callable[..., Strategy]) -> None:
    over, log = sky(SKY, NODES, client=client, horizon_s=80_000.0, visibility="all")
    with_sky = run(make(min_available_nodes=3), over, num_rounds=4)
    without = run(make(min_available_nodes=3), FakeGrid(client, num_nodes=3), num_rounds=4)
    # Replies come in another order, so sums of doubles round differently.
    expected = without.arrays.to_numpy_ndarrays()[0]
    assert with_sky.arrays.to_numpy_ndarrays()[0] == pytest.approx(expected, rel=1e-12)
    assert list(with_sky.train_metrics_clientapp) == [1, 2, 3, 4]
    assert distances(with_sky) == pytest.approx(distances(without), rel=1e-12)
    # Each of 4 rounds trains and evaluates 3 nodes; a training ends in the contact after the one it began in.
    assert [event["event"] for event in log].count("arrived") == 24
    assert over.now_s > 4 * 3600.0


def test_a_round_that_nobody_answers_in_time_ends_without_an_update() -> None:
    over, _ = sky(SKY, NODES, client=client, horizon_s=80_000.0, visibility="all")
    start = ArrayRecord({"w": Array(np.zeros(3))})
    result = FedAvg(min_available_nodes=3).start(grid=over, initial_arrays=start, num_rounds=1, timeout=60.0)
    assert not result.train_metrics_clientapp
    assert over.now_s == 120.0  # training and evaluation, 60 s each


def test_a_stock_strategy_ends_when_the_horizon_is_reached() -> None:
    over, _ = sky(SKY, NODES, client=client, horizon_s=76_000.0, visibility="all")
    result = run(FedAvg(min_available_nodes=3), over, num_rounds=1000)
    assert over.is_over
    assert len(result.train_metrics_clientapp) < 30
