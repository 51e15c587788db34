"""One pass of a cluster: the updates that came down together, each discounted by its own staleness."""

from collections.abc import Sequence
from typing import Any

from strategy.aggregation import WeightedDelta, merge_experts
from strategy.defence.outliers import norm_of, outliers
from strategy.events import merged_event, outlier_event
from strategy.settings import EmsFlSettings
from strategy.state import EmsFlState


def merge_pass(clusters: Sequence[str], state: EmsFlState, settings: EmsFlSettings) -> list[dict[str, Any]]:
    """Merge all waiting updates of a cluster at once, or of several; return the events to log.

    All of them in one mean, because merging each on its arrival would add up the devices' deltas.
    Every expert that an update carries is one version older afterwards.
    """
    # By node, so that the sum does not depend on who was a second earlier.
    arrivals = {
        cluster: sorted(state.arrivals.pop(cluster), key=lambda arrival: arrival.node_id)
        for cluster in clusters
    }
    staleness = {
        cluster: [
            {expert: state.version(expert) - version for expert, version in arrival.versions.items()}
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
    state.values = merge_experts(
        state.values,
        updates,
        server_learning_rate=settings.server_learning_rate,
        min_total_examples=_examples_of(clusters, state) if settings.count_whole_cluster else 0,
        robust=settings.robust,
    )
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


def _examples_of(clusters: Sequence[str], state: EmsFlState) -> int:
    return sum(p.num_examples for p in state.hosts.values() if p.cluster in clusters)
