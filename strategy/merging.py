"""One pass of a cluster: the updates that came down together, each discounted by its own staleness."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from moe.experts import SHARED, ExpertId
from strategy.aggregation import WeightedDelta, merge_experts
from strategy.defence.outliers import norm_of, outliers
from strategy.events import merged_event, outlier_event
from strategy.settings import EmsFlSettings
from strategy.state import EmsFlState


def merge_pass(clusters: Sequence[str], state: EmsFlState, settings: EmsFlSettings) -> list[dict[str, Any]]:
    """Merge all waiting updates of a cluster at once, or of several; return the events to log.

    All of them in one mean, because merging each on its arrival would add up the devices' deltas.
    Every expert that an update carries is one version older afterwards. Where shared parts are tuned too,
    they are averaged over all clusters, each of which moves them as it comes: buffered asynchronous
    averaging (FedBuff, arXiv 2106.06639) with everybody's examples in the divisor.
    """
    # By node, so that the sum does not depend on who was a second earlier.
    arrivals = {
        cluster: sorted(state.arrivals.pop(cluster), key=lambda arrival: arrival.node_id)
        for cluster in clusters
    }
    staleness = {
        cluster: [
            {
                expert: (state.version(expert) - version) // _versions_a_round(expert, state, settings)
                for expert, version in arrival.versions.items()
            }
            for arrival in of_cluster
        ]
        for cluster, of_cluster in arrivals.items()
    }
    updates = [
        WeightedDelta(
            delta=arrival.update.arrays,
            num_examples=arrival.update.num_examples,
            discounts={expert: settings.discount(s) for expert, s in stale.items()},
        )
        for cluster in clusters
        for arrival, stale in zip(arrivals[cluster], staleness[cluster], strict=True)
    ]
    merge = partial(merge_experts, server_learning_rate=settings.server_learning_rate, robust=settings.robust)
    examples = _examples_of(clusters, state) if settings.count_whole_cluster else 0
    if settings.splits and any(key.is_shared for key in state.values):
        updates_of_own, updates_of_all = _split(updates)
        state.values = merge(state.values, updates_of_own, min_total_examples=examples)
        # A cluster's pass moves what is everybody's by its part of everybody's mean.
        everybody = _examples_of(_trained_by(state), state)
        state.values = merge(state.values, updates_of_all, min_total_examples=everybody)
    else:
        state.values = merge(state.values, updates, min_total_examples=examples)
    norms = [norm_of(update.delta) for update in updates]
    waited = [(cluster, arrival.node_id) for cluster in clusters for arrival in arrivals[cluster]]
    far = [outlier_event(*waited[at], norms[at], norms) for at in outliers(norms)]
    for expert in {key.expert for update in updates for key in update.delta}:
        state.versions[expert] = state.version(expert) + 1
    state.merges += 1
    return far + [
        merged_event(cluster, state, arrivals[cluster], staleness[cluster], settings.discount)
        for cluster in clusters
    ]


def _split(updates: Sequence[WeightedDelta]) -> tuple[list[WeightedDelta], list[WeightedDelta]]:
    """Return what clusters have for themselves of the updates, and what is everybody's."""
    own, everybodys = (
        [
            replace(update, delta={k: value for k, value in update.delta.items() if k.is_shared == is_shared})
            for update in updates
        ]
        for is_shared in (False, True)
    )
    return own, everybodys


def _versions_a_round(expert: ExpertId, state: EmsFlState, settings: EmsFlSettings) -> int:
    """Return how many versions make one step of staleness: of what is everybody's, one of each cluster."""
    is_everybodys = expert.index == SHARED and settings.splits
    return max(1, len(_trained_by(state))) if is_everybodys else 1


def _trained_by(state: EmsFlState) -> Collection[str]:
    """Return the clusters that train."""
    return state.assignment.experts if state.assignment else ()


def _examples_of(clusters: Collection[str], state: EmsFlState) -> int:
    return sum(p.num_examples for p in state.hosts.values() if p.cluster in clusters)
