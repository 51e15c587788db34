"""Training before everybody was heard: on nobody else's experts, and only what is confirmed stays."""

from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from moe.experts import ExpertId
from strategy.assigner import choose_provisional
from strategy.baselines.asynchronous import FedBuff
from strategy.ems_fl import EmsFl
from strategy.messages import read_task
from strategy.wire.arrays import encode_arrays
from tests.fake_grid import FakeGrid
from tests.strategy.world import ArithmeticClient, Ticks, settings, zeros

CLUSTERS = {1: "sea", 2: "ice"}


class LateGrid(FakeGrid):
    """The second node comes into view late."""

    looks = 0

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        return [1] if self.looks < 20 else [1, 2]


def play_late(
    favourite: dict[str, int], kind: type[EmsFl] = EmsFl, **changes: Any
) -> tuple[EmsFl, list[dict[str, Any]], ArithmeticClient]:
    """Run until two merges in a world in which the second cluster is heard long after the first."""
    client = ArithmeticClient(clusters=CLUSTERS, favourite=favourite)
    events: list[dict[str, Any]] = []
    strategy = kind(
        settings(("sea", "ice"), is_provisional=True, **changes), clock=Ticks(), on_event=events.append
    )
    strategy.start(LateGrid(client, num_nodes=2), encode_arrays(zeros()), 2, 2000.0)
    return strategy, events, client


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_a_cluster_trains_before_the_other_was_heard_and_merges_after() -> None:
    strategy, events, client = play_late({"sea": 1, "ice": 3})
    assert client.trained[0] == (1, 0)
    assert kinds(events)[:3] == ["profiled", "profiled", "assigned"]
    first = next(event for event in events if event["event"] == "merged")
    assert first["cluster"] == "sea" and first["versions"] == {"0.1": 1, "2.1": 1}
    # It came before the assignment: one merge, and no other training of that node by then.
    assert strategy.state.provisional["sea"] == (ExpertId(0, 1), ExpertId(2, 1))


def test_the_assignment_does_not_wait_for_who_trains_meanwhile() -> None:
    client = ArithmeticClient(clusters=CLUSTERS, favourite={"sea": 1, "ice": 3})
    training: list[int] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "assigned":
            training.append(len(strategy.state.in_flight.training("sea")))

    strategy = EmsFl(settings(("sea", "ice"), is_provisional=True), clock=Ticks(), on_event=note)
    # The second message is the sea's first training, which takes longer than the ice needs to be heard.
    grid = LateGrid(client, num_nodes=2, delay=lambda number: 60 if number == 1 else 0)
    strategy.start(grid, encode_arrays(zeros()), 2, 2000.0)
    assert training == [1]


def test_without_it_nobody_trains_before_everybody_was_heard() -> None:
    client = ArithmeticClient(clusters=CLUSTERS, favourite={"sea": 1, "ice": 3})
    strategy = EmsFl(settings(("sea", "ice")), clock=Ticks())
    strategy.start(LateGrid(client, num_nodes=2), encode_arrays(zeros()), 1, 2000.0)
    assert not strategy.state.provisional


def test_what_the_assignment_gives_to_another_is_dropped() -> None:
    # Both want expert 1; the ice wants it more, and the sea has trained it meanwhile.
    class Wanting(ArithmeticClient):
        def profile(self, node: int) -> Any:
            from dataclasses import replace

            mass = np.array([4.0, 5.0, 0.0, 0.0]) if node == 1 else np.array([0.0, 90.0, 1.0, 1.0])
            return replace(super().profile(node), mass=(mass, mass))

    client = Wanting(clusters=CLUSTERS, favourite={"sea": 1, "ice": 1})
    events: list[dict[str, Any]] = []
    one_each = {"is_provisional": True, "max_experts": lambda *_: 1}
    strategy = EmsFl(settings(("sea", "ice"), **one_each), clock=Ticks(), on_event=events.append)
    sent: list[set[ExpertId]] = []

    def listen(message: Message) -> RecordDict:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 1:
            sent.append({key.expert for key in read_task(message).values})
        return client(message)

    strategy.start(LateGrid(listen, num_nodes=2), encode_arrays(zeros()), 4, 2000.0)
    assert strategy.state.assignment is not None
    assert strategy.state.provisional["sea"] == (ExpertId(0, 1), ExpertId(2, 1))
    assert strategy.state.assignment.experts["sea"] == (ExpertId(0, 0), ExpertId(2, 0))
    assert sent[0] == {ExpertId(0, 1), ExpertId(2, 1)} and sent[-1] == {ExpertId(0, 0), ExpertId(2, 0)}
    merged = [event for event in events if event["event"] == "merged"]
    of_sea = {name for event in merged if event["cluster"] == "sea" for name in event["versions"]}
    assert of_sea == {"0.0", "2.0"}
    # Expert 1 is moved by the ice alone: its node's target is 2 and more, the sea's 1 and less than 2.
    assert {name for event in merged if event["cluster"] == "ice" for name in event["versions"]} == {
        "0.1",
        "2.1",
    }


def test_rivals_that_split_nothing_do_not_wait_either() -> None:
    strategy, events, client = play_late({"sea": 1, "ice": 3}, FedBuff, assign_method="all", buffer_size=1)
    assert client.trained[0] == (1, 0) and "merged" in kinds(events)
    assert len(strategy.state.provisional["sea"]) == 8


@given(
    masses=st.lists(arrays.arrays(np.float64, 6, elements=st.floats(0, 100)), min_size=1, max_size=6),
    limit=st.integers(1, 6),
)
def test_provisional_experts_are_nobody_elses(masses: list[np.ndarray], limit: int) -> None:
    taken: list[ExpertId] = []
    for mass_E in masses:
        chosen = choose_provisional([mass_E], [3], limit, len(masses), taken, method="optimal")
        assert not set(chosen) & set(taken) and 1 <= len(chosen) <= limit
        taken += chosen


def test_of_equal_shares_the_best_are_taken_and_where_nothing_is_left_nothing() -> None:
    mass = [np.array([1.0, 5.0, 3.0, 0.0])]
    assert choose_provisional(mass, [0], 4, 2, [], method="optimal") == (ExpertId(0, 1), ExpertId(0, 2))
    everything = [ExpertId(0, at) for at in range(4)]
    assert choose_provisional(mass, [0], 4, 2, everything, method="optimal") == ()
    assert choose_provisional(mass, [0], 4, 2, everything, method="overlap") == (
        ExpertId(0, 1),
        ExpertId(0, 2),
    )
    assert choose_provisional(mass, [0], 1, 2, everything, method="all") == tuple(everything)
    assert choose_provisional(mass, [0], 4, 2, [], method="random") == ()
