"""One pass of a cluster: the updates that came down together, each discounted by its own staleness."""

from typing import Any

from strategy.aggregation import WeightedDelta, merge_experts
from strategy.events import merged_event
from strategy.settings import EmsFlSettings
from strategy.state import EmsFlState


def merge_pass(cluster: str, state: EmsFlState, settings: EmsFlSettings) -> dict[str, Any]:
    """Merge all waiting updates of a cluster at once, and return the event to log.

    All of them in one mean, because merging each on its arrival would add up the devices' deltas.
    Every expert that an update carries is one version older afterwards.
    """
    # By node, so that the sum does not depend on who was a second earlier.
    arrivals = sorted(state.arrivals.pop(cluster), key=lambda arrival: arrival.node_id)
    staleness = [
        {expert: state.version(expert) - version for expert, version in arrival.versions.items()}
        for arrival in arrivals
    ]
    updates = [
        WeightedDelta(
            delta=arrival.update.arrays,
            num_examples=arrival.update.num_examples,
            discounts={expert: settings.discount(s) for expert, s in stale.items()},
        )
        for arrival, stale in zip(arrivals, staleness, strict=True)
    ]
    state.values = merge_experts(
        state.values,
        updates,
        server_learning_rate=settings.server_learning_rate,
        min_total_examples=_examples_of(cluster, state) if settings.count_whole_cluster else 0,
    )
    for expert in {key.expert for update in updates for key in update.delta}:
        state.versions[expert] = state.version(expert) + 1
    state.merges += 1
    return merged_event(cluster, state, arrivals, staleness, settings.discount)


def _examples_of(cluster: str, state: EmsFlState) -> int:
    return sum(p.num_examples for p in state.hosts.values() if p.cluster == cluster)
