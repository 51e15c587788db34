"""From routing statistics to experts: who trains what, no expert twice.

Shape legend: C clusters (or groups of clusters), L MoE layers, E experts of a layer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import LinearConstraint, milp

from moe.experts import ExpertId

NEAR_UNIFORM = 1.25
"""A capture below this multiple of random assignment's is near uniform: splitting cannot help much there
(docs/LOG.md: with a base whose experts do not follow the domains the method lost to FedAvg)."""


METHODS = ("optimal", "random", "overlap", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which experts every cluster trains.

    Parameters
    ----------
    experts : Mapping[str, tuple[ExpertId, ...]]
        By cluster, ordered by layer and index.
    groups : tuple[tuple[str, ...], ...]
        Clusters that share one set of experts; groups of one when there are enough experts.
    capture : Mapping[str, float]
        Share of the cluster's routing mass that falls on its experts, mean over layers, in [0, 1].
    random_capture : Mapping[str, float]
        The same in expectation for a random assignment of equally many experts.
    """

    experts: Mapping[str, tuple[ExpertId, ...]]
    groups: tuple[tuple[str, ...], ...]
    capture: Mapping[str, float]
    random_capture: Mapping[str, float]

    @property
    def near_uniform(self) -> tuple[str, ...]:
        """Clusters whose capture is hardly above what random assignment gives."""
        return tuple(
            name
            for name, share in self.capture.items()
            if self.random_capture[name] < 1.0 and share < NEAR_UNIFORM * self.random_capture[name]
        )


def assign_experts(
    mass: Mapping[str, Sequence[NDArray[np.float64]]],
    layers: Sequence[int],
    max_experts: Mapping[str, int],
    *,
    method: str = "optimal",
    seed: int = 0,
    owned: Mapping[str, Collection[ExpertId]] | None = None,
    stay: float = 0.0,
) -> Assignment:
    """Return the assignment of experts to clusters that captures most routing mass.

    Per layer this is a transportation problem: expert e goes to at most one cluster, cluster c
    takes between one and ``max_experts[c]`` experts, and the captured share is as large as
    possible. Its constraint matrix is totally unimodular, so the optimum is whole experts.
    With more clusters than experts in some layer, similar clusters form as many groups as that
    layer has experts, and a group shares its experts.

    Parameters
    ----------
    mass : Mapping[str, sequence of arrays [E]]
        By cluster, summed gate mass of each expert for every layer of ``layers``; >= 0.
    layers : sequence of int
        Decoder layers, in the order of ``mass``.
    max_experts : Mapping[str, int]
        By cluster, the most experts a layer may give it (its memory and its link), >= 1.
    method : {"optimal", "random", "overlap", "all"}
        ``random``: as many experts as ``optimal`` gives, drawn from ``seed`` (ablation).
        ``overlap``: as many, but every cluster the best for itself, whoever else has them (as ESFT, arXiv
        2407.01906, chooses them for one task).
        ``all``: every cluster trains every expert (overlap, the conventional way).
    seed : int
        For ``random``.
    owned : Mapping[str, collection of ExpertId], optional
        What each cluster trained before.
    stay : float
        An expert's share counts ``1 + stay`` times for a cluster that has it already: moving it costs a
        delivery, and what its owner is training, so a hair's breadth should not move it. >= 0.

    Raises
    ------
    ValueError
        Without clusters, for a cluster that fits no expert, a mass that is negative or not finite,
        or an unknown method.
    """
    _check(mass, layers, max_experts, method)
    names = tuple(mass)
    share = {name: [_shares(layer) for layer in mass[name]] for name in names}
    groups = _groups(share, min(len(share[names[0]][at]) for at in range(len(layers))))
    if method in ("all", "overlap"):
        groups = tuple((name,) for name in names)
    experts: dict[str, list[ExpertId]] = {name: [] for name in names}
    random = np.random.default_rng(seed)
    for at, layer in enumerate(layers):
        share_CE = np.stack([np.mean([share[name][at] for name in group], axis=0) for group in groups])
        limit_C = np.array([min(max_experts[name] for name in group) for group in groups])
        has_CE = _owned(groups, owned or {}, layer, share_CE.shape[1])
        chosen_CE = _choose(share_CE * (1.0 + stay * has_CE), limit_C, method)
        if method == "random":
            chosen_CE = chosen_CE[:, random.permutation(chosen_CE.shape[1])]
        for group, chosen_E in zip(groups, chosen_CE, strict=True):
            for name in group:
                experts[name] += [ExpertId(layer, int(index)) for index in np.flatnonzero(chosen_E)]
    return Assignment(
        experts={name: tuple(experts[name]) for name in names},
        groups=groups,
        capture={name: _capture(share[name], layers, experts[name]) for name in names},
        random_capture={name: _expected_capture(share[name], layers, experts[name]) for name in names},
    )


def with_cluster(
    assignment: Assignment,
    name: str,
    experts: Sequence[ExpertId],
    mass: Sequence[NDArray[np.float64]],
    layers: Sequence[int],
) -> Assignment:
    """Return an assignment with one cluster more, which trains these experts; nothing else changes.

    Parameters
    ----------
    mass : sequence of arrays [E]
        Of the cluster, summed gate mass of each expert for every layer of ``layers``.
    """
    share = [_shares(layer) for layer in mass]
    return Assignment(
        experts={**assignment.experts, name: tuple(experts)},
        groups=(*assignment.groups, (name,)),
        capture={**assignment.capture, name: _capture(share, layers, experts)},
        random_capture={**assignment.random_capture, name: _expected_capture(share, layers, experts)},
    )


def _owned(
    groups: Sequence[Sequence[str]],
    owned: Mapping[str, Collection[ExpertId]],
    layer: int,
    num_experts: int,
) -> NDArray[np.float64]:
    """Return 1 where somebody of a group has an expert of a layer, else 0."""
    has_CE = np.zeros((len(groups), num_experts))
    for at, group in enumerate(groups):
        for name in group:
            has_CE[at, [e.index for e in owned.get(name, ()) if e.layer == layer]] = 1.0
    return has_CE


def captures(
    mass: Mapping[str, Sequence[NDArray[np.float64]]], layers: Sequence[int], assignment: Assignment
) -> dict[str, float]:
    """Return what the experts of an assignment catch of other masses, by cluster; as `Assignment.capture`."""
    return {
        name: _capture([_shares(layer) for layer in mass[name]], layers, experts)
        for name, experts in assignment.experts.items()
    }


def _choose(share_CE: NDArray[np.float64], limit_C: NDArray[np.int64], method: str) -> NDArray[np.bool_]:
    """Return which experts of a layer each cluster gets."""
    C, E = share_CE.shape
    if method == "all":
        return np.ones((C, E), bool)
    if method != "overlap":
        return _transport(share_CE, limit_C)
    # An equal deal, as far as each fits: what a cluster holds must not depend on what others like.
    count_C = np.minimum(limit_C, max(1, E // C))
    order_CE = np.argsort(-share_CE, axis=1, kind="stable")
    return np.argsort(order_CE, axis=1) < count_C[:, None]


def _transport(share_CE: NDArray[np.float64], limit_C: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Solve one layer; returns which cluster gets which expert."""
    C, E = share_CE.shape
    one_owner = np.tile(np.eye(E), C)
    counts = np.kron(np.eye(C), np.ones(E))
    solution = milp(
        -share_CE.ravel(),
        constraints=[LinearConstraint(one_owner, 0, 1), LinearConstraint(counts, 1, np.minimum(limit_C, E))],
        integrality=np.ones(C * E),
        bounds=(0, 1),
    )
    if not solution.success:
        raise RuntimeError(f"no assignment of {E} experts to {C} clusters was found: {solution.message}")
    return np.asarray(solution.x.reshape(C, E) > 0.5)


def _groups(share: Mapping[str, Sequence[NDArray[np.float64]]], most: int) -> tuple[tuple[str, ...], ...]:
    """Return at most ``most`` groups of clusters with similar routing (average linkage)."""
    names = tuple(share)
    if len(names) <= most:
        return tuple((name,) for name in names)
    profiles = np.stack([np.concatenate(share[name]) for name in names])
    labels = fcluster(linkage(profiles, "average"), most, "maxclust")
    found: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        found.setdefault(int(label), []).append(name)
    return tuple(tuple(group) for group in found.values())


def _shares(mass_E: NDArray[np.float64]) -> NDArray[np.float64]:
    # A layer that no token reached tells nothing: every expert is equally likely.
    total = float(mass_E.sum())
    return mass_E / total if total > 0.0 else np.full(len(mass_E), 1.0 / len(mass_E))


def _capture(
    share: Sequence[NDArray[np.float64]], layers: Sequence[int], experts: Sequence[ExpertId]
) -> float:
    at = {layer: index for index, layer in enumerate(layers)}
    return float(sum(share[at[e.layer]][e.index] for e in experts)) / len(layers)


def _expected_capture(
    share: Sequence[NDArray[np.float64]], layers: Sequence[int], experts: Sequence[ExpertId]
) -> float:
    # Every expert is equally likely to be drawn, so k of E experts capture k/E on average.
    counts = {layer: sum(e.layer == layer for e in experts) for layer in layers}
    return float(np.mean([counts[layer] / len(share[at]) for at, layer in enumerate(layers)]))


def _check(
    mass: Mapping[str, Sequence[NDArray[np.float64]]],
    layers: Sequence[int],
    max_experts: Mapping[str, int],
    method: str,
) -> None:
    if not mass:
        raise ValueError("no cluster has reported its routing: nothing can be assigned")
    if method not in METHODS:
        raise ValueError(f"unknown assignment method {method!r}; choose one of {', '.join(METHODS)}")
    faults = [f"cluster {name!r} fits no expert" for name in mass if max_experts[name] < 1]
    for name, per_layer in mass.items():
        if len(per_layer) != len(layers):
            faults.append(f"cluster {name!r} reports {len(per_layer)} layers; the model has {len(layers)}")
        elif not all(np.isfinite(m).all() and (m >= 0).all() for m in per_layer):
            faults.append(f"the routing mass of cluster {name!r} must be finite and >= 0")
    if faults:
        raise ValueError("experts cannot be assigned: " + "; ".join(faults))
