"""What the merged model takes of a change: the owners' share of an expert's traffic, or its root."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.experts import ExpertArrays, ExpertId, ParameterKey
from strategy.assignment import Assignment, assign_experts
from strategy.messages import Profile
from strategy.serving import owner_shares, serving_values

LAYERS = (0, 2)


def heard(cluster: str, node: int, *layers: list[float]) -> Profile:
    return Profile(
        cluster=cluster, devices=(node,), mass=tuple(map(np.array, layers)),
        num_examples=1, memory_bytes=1, fingerprint="base",
    )  # fmt: skip


# The sea's devices together send layer 0 [6, 2] of 8, the ice's [5, 15] of 20: shares .75/.25 and .25/.75.
PROFILES = (
    heard("sea", 1, [4.0, 0.0], [1.0, 1.0]),
    heard("sea", 2, [2.0, 2.0], [1.0, 1.0]),
    heard("ice", 3, [5.0, 15.0], [0.0, 7.0]),
)


def owned(**experts: list[tuple[int, int]]) -> Assignment:
    by_cluster = {name: tuple(ExpertId(*expert) for expert in of) for name, of in experts.items()}
    groups = tuple((name,) for name in by_cluster)
    return Assignment(experts=by_cluster, groups=groups, capture={}, random_capture={})


BY_ONE = owned(sea=[(0, 0), (2, 0)], ice=[(0, 1), (2, 1)])


def test_an_experts_share_is_its_owners_part_of_what_it_is_sent() -> None:
    shares = owner_shares(BY_ONE, PROFILES, LAYERS)
    assert shares[ExpertId(0, 0)] == pytest.approx(0.75) and shares[ExpertId(0, 1)] == pytest.approx(0.75)
    # Layer 2: the sea gives each half of itself, the ice everything to the second.
    assert shares[ExpertId(2, 0)] == 1.0 and shares[ExpertId(2, 1)] == pytest.approx(1 / 1.5)


def test_an_expert_that_all_clusters_train_is_wholly_theirs() -> None:
    everybody = [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert set(owner_shares(owned(sea=everybody, ice=everybody), PROFILES, LAYERS).values()) == {1.0}


def values(layer: int = 0, index: int = 0) -> tuple[ExpertArrays, ExpertArrays]:
    keys = [ParameterKey(layer, index, name) for name in ("fc_in.lora_A", "fc_in.lora_B", "router.row")]
    return {k: np.full((2,), 1.0, np.float32) for k in keys}, {
        k: np.full((2,), 5.0, np.float32) for k in keys
    }


@pytest.mark.parametrize(("take", "strength"), [("whole", 1.0), ("share", 0.75), ("root-share", 0.75**0.5)])
def test_the_change_is_scaled_and_of_a_pair_one_factor(take: str, strength: float) -> None:
    initial, now = values()
    served = serving_values(now, initial, BY_ONE, PROFILES, LAYERS, take)  # type: ignore[arg-type]
    for key, value in served.items():
        expected = 5.0 if key.name.endswith("lora_A") else 1.0 + strength * 4.0
        assert value.dtype == np.float32 and value == pytest.approx(expected)
    assert all((value == 5.0).all() for value in now.values())


def test_what_nobody_owns_is_as_it_was_and_before_the_assignment_all_is() -> None:
    initial, now = values(layer=0, index=1)
    only_sea = owned(sea=[(0, 0)])
    served = serving_values(now, initial, only_sea, PROFILES, LAYERS, "share")
    assert all((served[key] == now[key]).all() for key in now)
    assert serving_values(now, initial, None, PROFILES, LAYERS, "share") is now


def test_rivals_that_hold_everything_merge_what_they_always_merged() -> None:
    mass = {"sea": [np.array([4.0, 1.0])] * 2, "ice": [np.array([0.3, 0.7])] * 2}
    everybody = assign_experts(mass, LAYERS, dict.fromkeys(mass, 2), method="all")
    initial, now = values()
    assert serving_values(now, initial, everybody, PROFILES, LAYERS, "root-share") is now


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), min_size=2, max_size=4))
def test_shares_are_shares_whatever_is_measured(rows: list[list[float]]) -> None:
    profiles = [heard(f"c{at}", at, row) for at, row in enumerate(rows)]
    assignment = owned(**{f"c{at}": [(0, at)] for at in range(min(3, len(rows)))})
    shares = owner_shares(assignment, profiles, (0,))
    assert all(0.0 <= share <= 1.0 for share in shares.values()) and len(shares) == min(3, len(rows))
