"""Experts to train before everybody was heard: what a cluster's data uses most and nobody has claimed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId
from strategy.state import Arrival


def choose_provisional(
    mass: Sequence[NDArray[np.float64]],
    layers: Sequence[int],
    limit: int,
    num_clusters: int,
    taken: Iterable[ExpertId],
    *,
    method: str,
) -> tuple[ExpertId, ...]:
    """Return the experts a cluster trains until the assignment; none where a layer has none left.

    Parameters
    ----------
    mass : sequence of arrays [E]
        Of the cluster, summed gate mass of each expert for every layer of ``layers``.
    layers : sequence of int
        Decoder layers, in the order of ``mass``.
    limit : int
        Experts of a layer that the cluster can tune and send, >= 1.
    num_clusters : int
        Clusters that may still come: each shall have an equal share.
    taken : iterable of ExpertId
        What other clusters train meanwhile.
    method : str
        As of `strategy.assignment.assign_experts`: ``all`` and ``overlap`` take what others have; what
        ``random`` gives cannot be known before everybody was heard.

    Examples
    --------
    >>> choose_provisional([np.array([1.0, 5.0, 3.0, 0.0])], [0], 2, 4, [ExpertId(0, 1)], method="optimal")
    (ExpertId(layer=0, index=2),)
    """
    if method == "random":
        return ()
    held: set[ExpertId] = set() if method in ("all", "overlap") else set(taken)
    chosen: list[ExpertId] = []
    for layer, mass_E in zip(layers, mass, strict=True):
        count = len(mass_E) if method == "all" else min(limit, max(1, len(mass_E) // num_clusters))
        free = [ExpertId(layer, int(at)) for at in np.argsort(-mass_E, kind="stable")]
        free = [expert for expert in free if expert not in held][:count]
        if not free:
            return ()
        chosen += sorted(free)
    return tuple(chosen)


def confirmed(arrival: Arrival, experts: Collection[ExpertId]) -> Arrival | None:
    """Return what an update carries of these experts; None for nothing."""
    arrays: ExpertArrays = {
        key: value for key, value in arrival.update.arrays.items() if key.expert in experts
    }
    if not arrays:
        return None
    return Arrival(
        node_id=arrival.node_id,
        versions={expert: version for expert, version in arrival.versions.items() if expert in experts},
        update=replace(arrival.update, arrays=arrays),
        arrived_s=arrival.arrived_s,
    )
