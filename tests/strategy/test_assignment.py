"""Who gets which experts: optimal, disjoint, within budgets."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.experts import ExpertId
from strategy.assignment import Assignment, assign_experts

Mass = dict[str, list[np.ndarray]]


@st.composite
def routing(draw: st.DrawFn) -> tuple[Mass, list[int], dict[str, int]]:
    num_clusters, num_layers, num_experts = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.integers(3, 5)),
    )
    cells = st.lists(st.integers(0, 20), min_size=num_experts, max_size=num_experts)
    mass = {
        f"c{c}": [np.array(draw(cells), np.float64) for _ in range(num_layers)] for c in range(num_clusters)
    }
    return mass, list(range(num_layers)), {name: draw(st.integers(1, 3)) for name in mass}


def best_by_trying_all(shares: list[np.ndarray], limits: list[int]) -> float:
    """Largest captured share of one layer: try every owner of every expert."""
    best = -1.0
    for owners in product(range(-1, len(shares)), repeat=len(shares[0])):
        counts = [owners.count(c) for c in range(len(shares))]
        if all(1 <= n <= limit for n, limit in zip(counts, limits, strict=True)):
            best = max(best, sum(shares[c][e] for e, c in enumerate(owners) if c >= 0))
    return best


@settings(max_examples=60, deadline=None)
@given(routing())
def test_the_captured_mass_is_the_best_of_all_assignments(
    case: tuple[Mass, list[int], dict[str, int]],
) -> None:
    mass, layers, limits = case
    found = assign_experts(mass, layers, limits)
    for layer in layers:
        totals = {name: mass[name][layer].sum() for name in mass}
        shares = [
            mass[n][layer] / totals[n] if totals[n] else np.full(len(mass[n][layer]), 1 / len(mass[n][layer]))
            for n in mass
        ]
        captured = sum(
            shares[at][e.index] for at, n in enumerate(mass) for e in found.experts[n] if e.layer == layer
        )
        assert captured == pytest.approx(best_by_trying_all(shares, [limits[n] for n in mass]), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(routing(), st.sampled_from(["optimal", "random"]))
def test_no_expert_has_two_owners_and_every_cluster_stays_within_its_budget(
    case: tuple[Mass, list[int], dict[str, int]], method: str
) -> None:
    mass, layers, limits = case
    found = assign_experts(mass, layers, limits, method=method, seed=3)
    owned = [expert for experts in found.experts.values() for expert in experts]
    assert len(owned) == len(set(owned))
    for name, experts in found.experts.items():
        for layer in layers:
            assert 1 <= sum(expert.layer == layer for expert in experts) <= limits[name]
        assert 0.0 <= found.capture[name] <= 1.0 + 1e-12


def test_every_cluster_gets_the_expert_its_data_uses() -> None:
    mass = {"sea": [np.array([1.0, 8.0, 1.0])], "ice": [np.array([7.0, 2.0, 1.0])]}
    found = assign_experts(mass, [4], {"sea": 1, "ice": 1})
    assert found.experts == {"sea": (ExpertId(4, 1),), "ice": (ExpertId(4, 0),)}
    assert found.capture == {"sea": pytest.approx(0.8), "ice": pytest.approx(0.7)}
    assert found.random_capture == {"sea": pytest.approx(1 / 3), "ice": pytest.approx(1 / 3)}
    assert found.near_uniform == ()


def test_a_capture_near_uniform_is_named() -> None:
    mass = {"sea": [np.array([10.0, 10.5, 10.0])], "ice": [np.array([50.0, 1.0, 1.0])]}
    assert assign_experts(mass, [0], {"sea": 1, "ice": 1}).near_uniform == ("sea",)


def test_more_clusters_than_experts_share_with_the_most_similar() -> None:
    mass = {
        "sea": [np.array([9.0, 1.0])],
        "ice": [np.array([1.0, 9.0])],
        "bay": [np.array([8.0, 2.0])],
    }
    found = assign_experts(mass, [0], dict.fromkeys(mass, 1))
    assert found.groups == (("sea", "bay"), ("ice",))
    assert found.experts["sea"] == found.experts["bay"] == (ExpertId(0, 0),)
    assert found.experts["ice"] == (ExpertId(0, 1),)


def test_random_assignment_depends_on_the_seed_alone_and_captures_less_on_average() -> None:
    rng = np.random.default_rng(0)
    mass = {f"c{c}": [rng.dirichlet(np.full(8, 0.2)) for _ in range(3)] for c in range(4)}
    limits = dict.fromkeys(mass, 2)

    def mean_capture(found: Assignment) -> float:
        return float(np.mean(list(found.capture.values())))

    drawn = [assign_experts(mass, [0, 1, 2], limits, method="random", seed=seed) for seed in range(40)]
    again = assign_experts(mass, [0, 1, 2], limits, method="random", seed=7)
    assert again == drawn[7]
    expected = float(np.mean(list(drawn[0].random_capture.values())))
    assert np.mean([mean_capture(found) for found in drawn]) == pytest.approx(expected, abs=0.03)
    assert mean_capture(assign_experts(mass, [0, 1, 2], limits)) > 2 * expected


def test_all_gives_everybody_everything() -> None:
    mass = {name: [np.ones(4), np.ones(4)] for name in ("sea", "ice")}
    found = assign_experts(mass, [2, 5], {"sea": 1, "ice": 1}, method="all")
    everything = tuple(ExpertId(layer, index) for layer in (2, 5) for index in range(4))
    assert found.experts == {"sea": everything, "ice": everything}
    assert found.capture["sea"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("mass", "limit", "reason"),
    [
        ({}, {}, "no cluster has reported"),
        ({"sea": [np.ones(3)]}, {"sea": 0}, "cluster 'sea' fits no expert"),
        ({"sea": [np.array([1.0, -1.0])]}, {"sea": 1}, "finite and >= 0"),
        ({"sea": [np.array([1.0, np.nan])]}, {"sea": 1}, "finite and >= 0"),
        ({"sea": []}, {"sea": 1}, "reports 0 layers; the model has 1"),
    ],
)
def test_impossible_statistics_are_refused(mass: Mass, limit: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        assign_experts(mass, [0], limit)


def test_overlapping_assignment_gives_each_cluster_its_own_best_whoever_else_has_them() -> None:
    mass = {
        "ice": [np.array([5.0, 1.0, 9.0, 2.0])],
        "sea": [np.array([4.0, 0.0, 8.0, 1.0])],
    }
    found = assign_experts(mass, [0], {"ice": 4, "sea": 1}, method="overlap")
    assert found.experts["ice"] == (ExpertId(0, 0), ExpertId(0, 2))  # an equal deal: two of four
    assert found.experts["sea"] == (ExpertId(0, 2),)  # it fits but one
    assert found.capture["ice"] == pytest.approx(14 / 17)
