"""The strategy's lines of the event log: what a reader needs to follow every number."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from moe.experts import ExpertId
from strategy.assignment import Assignment
from strategy.staleness import Discount
from strategy.state import Arrival, EmsFlState


def assigned_event(
    assignment: Assignment, missing: Iterable[str], before: Assignment | None = None
) -> dict[str, Any]:
    """Return who got which experts, the capture beside random assignment's, and who was not heard.

    Of a later assignment also which experts moved: ``[expert, clusters that had it, clusters that have it]``.
    """
    moved = {} if before is None else {"moved": _moved(before, assignment)}
    return moved | {
        "event": "assigned",
        "experts": {name: [e.name for e in experts] for name, experts in assignment.experts.items()},
        "groups": [list(group) for group in assignment.groups],
        "capture": dict(assignment.capture),
        "random_capture": dict(assignment.random_capture),
        "near_uniform": list(assignment.near_uniform),
        "not_heard": sorted(missing),
    }


def merged_event(
    cluster: str,
    state: EmsFlState,
    arrivals: Sequence[Arrival],
    staleness: Sequence[Mapping[ExpertId, int]],
    discount: Discount,
) -> dict[str, Any]:
    """Return one merge: its updates with their devices, staleness, discount and loss, per expert."""
    updates = [
        {
            "node": arrival.node_id,
            "devices": list(state.profiles[arrival.node_id].devices),
            "num_examples": arrival.update.num_examples,
            "local_steps": arrival.update.local_steps,
            "train_loss": arrival.update.train_loss,
            "staleness": {expert.name: s for expert, s in stale.items()},
            "discount": {expert.name: discount(s) for expert, s in stale.items()},
        }
        | ({} if (loss := arrival.update.heldout_loss) is None else {"heldout_loss": loss})
        | ({} if (share := arrival.update.capture) is None else {"capture": share})
        for arrival, stale in zip(arrivals, staleness, strict=True)
    ]
    experts = sorted({expert for stale in staleness for expert in stale})
    return {
        "event": "merged",
        "cluster": cluster,
        "merges": state.merges,
        "versions": {expert.name: state.version(expert) for expert in experts},
        "updates": updates,
    }


def outlier_event(cluster: str, node_id: int, norm: float, norms: Sequence[float]) -> dict[str, Any]:
    """Return that a node's update was far longer than the others of its pass."""
    return {
        "event": "outlier",
        "node": node_id,
        "cluster": cluster,
        "norm": norm,
        "median_norm": float(median(norms)),
    }


def _moved(before: Assignment, after: Assignment) -> list[list[Any]]:
    had, has = _owners(before), _owners(after)
    return [[e.name, had.get(e, []), has.get(e, [])] for e in sorted(had.keys() | has.keys())
            if had.get(e) != has.get(e)]  # fmt: skip


def _owners(assignment: Assignment) -> dict[ExpertId, list[str]]:
    owners: dict[ExpertId, list[str]] = {}
    for cluster, experts in assignment.experts.items():
        for expert in experts:
            owners.setdefault(expert, []).append(cluster)
    return owners
