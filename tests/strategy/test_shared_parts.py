"""Merging what every cluster trains: everybody's mean, moved by each cluster as it comes."""

from dataclasses import replace

import numpy as np
import pytest

from moe.experts import SHARED, ExpertId, ParameterKey
from strategy.assignment import Assignment
from strategy.ems_fl import EmsFl
from strategy.merging import merge_pass
from strategy.messages import ExpertUpdate
from strategy.settings import EmsFlSettings
from strategy.staleness import polynomial
from strategy.state import Arrival, EmsFlState
from strategy.wire.arrays import decode_arrays, encode_arrays, read_name, wire_name
from tests.strategy.test_serving import heard
from tests.strategy.world import ArithmeticClient, play, settings, zeros

ALL = ParameterKey(0, SHARED, "self_attn.q_proj.lora_B")
OWN = {"A": ParameterKey(0, 0, "fc_in.lora_B"), "B": ParameterKey(0, 1, "fc_in.lora_B")}
EXAMPLES = {"A": 30, "B": 10}


def state_of(version: int = 0) -> EmsFlState:
    profiles = {
        node: replace(heard(cluster, node, [1.0, 1.0], [1.0, 1.0]), num_examples=EXAMPLES[cluster])
        for node, cluster in enumerate("AB", start=1)
    }
    owned = {cluster: (OWN[cluster].expert,) for cluster in "AB"}
    state = EmsFlState(
        values={key: np.zeros(2, np.float32) for key in (ALL, *OWN.values())},
        profiles=profiles,
        assignment=Assignment(experts=owned, groups=(("A",), ("B",)), capture={}, random_capture={}),
    )
    state.versions[ALL.expert] = version
    return state


def come(state: EmsFlState, cluster: str, value: float, since: int = 0) -> None:
    """Let an update come that was sent when the shared part had version ``since``."""
    arrays = {key: np.full(2, value, np.float32) for key in (ALL, OWN[cluster])}
    update = ExpertUpdate(arrays=arrays, num_examples=EXAMPLES[cluster], train_loss=1.0, local_steps=1)
    versions = {ALL.expert: since, OWN[cluster].expert: state.version(OWN[cluster].expert)}
    node = 1 + "AB".index(cluster)
    state.arrivals[cluster] = [Arrival(node_id=node, versions=versions, update=update, arrived_s=0.0)]


def rules(**changes: object) -> EmsFlSettings:
    return settings(("A", "B"), discount=polynomial(0.5), **changes)


def test_after_a_pass_of_each_cluster_it_has_moved_by_everybodys_mean() -> None:
    state = state_of()
    come(state, "A", 1.0)
    come(state, "B", 5.0)
    merge_pass(("A",), state, rules())
    assert state.values[ALL] == pytest.approx(30 / 40 * 1.0)
    assert state.values[OWN["A"]] == pytest.approx(1.0)  # an expert has its owner's whole mean
    merge_pass(("B",), state, rules())
    # The mean over devices, weighted by examples, as FedAvg's.
    assert state.values[ALL] == pytest.approx((30 * 1.0 + 10 * 5.0) / 40)
    assert state.values[OWN["B"]] == pytest.approx(5.0)


@pytest.mark.parametrize(("behind", "rounds"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
def test_it_is_stale_by_rounds_of_all_clusters(behind: int, rounds: int) -> None:
    state = state_of(version=behind)
    come(state, "A", 1.0, since=0)
    (event,) = merge_pass(("A",), state, rules())
    assert state.values[ALL] == pytest.approx(30 / 40 * (1 + rounds) ** -0.5)
    assert event["updates"][0]["staleness"] == {"0.0": 0, "0.shared": rounds}
    assert event["versions"] == {"0.0": 1, "0.shared": behind + 1}


def test_where_everybody_has_everything_it_is_merged_as_the_experts_are() -> None:
    state = state_of()
    come(state, "A", 1.0)
    merge_pass(("A",), state, rules(assign_method="all"))
    assert state.values[ALL] == pytest.approx(1.0)


@pytest.mark.parametrize("robust", ["clip", "trimmed-mean", "median"])
def test_robust_rules_leave_alone_what_is_honest(robust: str) -> None:
    state = state_of()
    come(state, "A", 1.0)
    merge_pass(("A",), state, rules(robust=robust))
    assert state.values[ALL] == pytest.approx(30 / 40)


def test_its_name_goes_over_the_wire_and_comes_back() -> None:
    assert wire_name(ALL) == "0.shared.self_attn.q_proj.lora_B"
    assert read_name(wire_name(ALL)) == ALL
    assert decode_arrays(encode_arrays({ALL: np.ones(2, np.float32)})).keys() == {ALL}
    assert ExpertId.named("3.shared") == ExpertId(3, SHARED) and ExpertId(3, SHARED).name == "3.shared"
    for name in ("0.shared", "0.shared.", "0.-1.x", "shared.0.x", "0.Shared.x", "0", ""):
        with pytest.raises(ValueError, match=r"is not layer\.expert\.name"):
            read_name(name)


def test_every_cluster_is_sent_it_and_no_foreign_expert() -> None:
    """A whole run over nodes that answer by arithmetic: each goes halfway to its own target."""
    client = ArithmeticClient({1: "A", 2: "B"}, {"A": 0, "B": 1})
    shared = ParameterKey(2, SHARED, "self_attn.q_proj.lora_B")
    strategy, _ = play(
        client,
        2,
        settings(("A", "B")),
        max_merges=6,
        initial={**zeros(), shared: np.zeros((3, 2), np.float32)},
    )
    assert isinstance(strategy, EmsFl)
    state = strategy.state
    targets = [float(client.target(node, shared)[0, 0]) for node in (1, 2)]
    assert min(targets) * 0.5 < float(state.values[shared][0, 0]) < max(targets)
    assert state.version(shared.expert) == 6
    owners = {
        e: c for c, experts in (state.assignment.experts if state.assignment else {}).items() for e in experts
    }
    assert len(owners) == 4 and shared.expert not in owners
