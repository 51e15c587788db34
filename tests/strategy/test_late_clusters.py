"""Clusters that nobody knew beforehand: they are assigned experts when they are heard, early or late."""

from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from strategy.ems_fl import EmsFl
from strategy.state import EmsFlState
from strategy.wire.arrays import encode_arrays
from tests.fake_grid import FakeGrid
from tests.strategy.world import ArithmeticClient, Ticks, settings, zeros

CLUSTERS = {1: "sea", 2: "ice", 3: "sand"}
LATE_NODE = 3
Event = dict[str, Any]


class Comers:
    """Three nodes, of which the last connects once the others have trained some times."""

    def __init__(self, memory_bytes: int = 1200, comes_after: int = 4) -> None:
        self.nodes = ArithmeticClient(
            clusters=CLUSTERS, favourite={"sea": 1, "ice": 3, "sand": 0}, memory_bytes=memory_bytes
        )
        self.comes_after = comes_after
        self.grid = FakeGrid(self.answer, num_nodes=2)

    def answer(self, message: Message) -> RecordDict:
        if len(self.nodes.trained) >= self.comes_after and LATE_NODE not in self.grid.node_ids:
            self.grid.node_ids.append(LATE_NODE)
        return self.nodes(message)


def play(comers: Comers, max_merges: int = 12, **changes: Any) -> tuple[EmsFlState, list[Event]]:
    events: list[Event] = []
    chosen = replace(settings(()), **{"clusters": None, "min_clusters": 2, **changes})
    strategy = EmsFl(chosen, clock=Ticks(), on_event=events.append)
    strategy.start(comers.grid, encode_arrays(zeros()), max_merges, 400.0)
    return strategy.state, events


def of_kind(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def owners(event: Event) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cluster, experts in event["experts"].items():
        for expert in experts:
            found.setdefault(expert, []).append(cluster)
    return found


def test_whoever_comes_is_assigned_once_enough_clusters_were_heard() -> None:
    comers = Comers(comes_after=10**9)
    state, events = play(comers, max_merges=4)
    (assigned,) = of_kind(events, "assigned")
    assert assigned["experts"].keys() == {"sea", "ice"} and assigned["not_heard"] == []
    assert state.merges == 4 and {event["cluster"] for event in of_kind(events, "merged")} == {"sea", "ice"}


def test_experts_wait_for_as_many_clusters_as_are_asked_for() -> None:
    comers = Comers(comes_after=10**9)
    _, events = play(comers, max_merges=4, min_clusters=3, profile_wait_s=200.0)
    (assigned,) = of_kind(events, "assigned")
    assert assigned["time_s"] >= 200.0 and assigned["experts"].keys() == {"sea", "ice"}


@pytest.mark.parametrize("late", ["anew", "free"])
def test_a_cluster_that_comes_late_trains_experts_that_are_nobody_elses(late: str) -> None:
    state, events = play(Comers(), late=late)
    first, second = of_kind(events, "assigned")
    assert "sand" not in first["experts"] and "sand" in second["experts"]
    assert all(len(clusters) == 1 for clusters in owners(second).values())
    assert "sand" in {event["cluster"] for event in of_kind(events, "merged")}
    # One expert a layer for each of three clusters, of four: nobody had to give one up.
    assert [e for e in second["moved"] if e[1]] == []
    assert second["capture"]["sand"] == pytest.approx(20 / 23)
    assert second["random_capture"]["sand"] == pytest.approx(1 / 4)
    assert of_kind(events, "left-out") == [] and state.assignments == 2


def test_where_all_experts_have_an_owner_a_late_cluster_gets_some_only_by_a_new_assignment() -> None:
    left, events = play(Comers(memory_bytes=1400), late="free")
    (out,) = of_kind(events, "left-out")
    assert out["cluster"] == "sand" and len(of_kind(events, "assigned")) == 1
    assert left.left_out == {"sand"}
    assert "sand" not in {event["cluster"] for event in of_kind(events, "merged")}
    _, events = play(Comers(memory_bytes=1400), late="anew")
    _, second = of_kind(events, "assigned")
    assert "sand" in second["experts"] and [move for move in second["moved"] if move[1]]
    assert all(len(clusters) == 1 for clusters in owners(second).values())
    assert "sand" in {event["cluster"] for event in of_kind(events, "merged")}


def test_a_known_cluster_that_was_not_heard_in_time_is_taken_in_when_it_is() -> None:
    _, events = play(Comers(), clusters=("ice", "sand", "sea"), profile_wait_s=5.0)
    first, second = of_kind(events, "assigned")
    assert first["not_heard"] == ["sand"] and second["not_heard"] == []
    assert list(second["experts"]) == ["ice", "sand", "sea"]


def test_a_name_that_is_none_is_refused_and_so_is_a_stranger_where_clusters_are_known() -> None:
    def fault(name: str) -> str:
        return "must not be like this" if name == "ice" else ""

    _, events = play(Comers(), min_clusters=1, name_fault=fault, max_merges=3)
    (refused, *_) = of_kind(events, "refused")
    assert (
        refused["node"] == 2
        and refused["reason"] == "the name of its cluster must not be like this, got 'ice'"
    )
    _, events = play(Comers(), clusters=("sea",), max_merges=3)
    (refused, *_) = of_kind(events, "refused")
    assert refused["reason"] == "cluster 'ice' is unknown; this run has ['sea']"
