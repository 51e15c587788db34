"""What the merged model takes of an expert's change, which only its own clusters' data has made.

A device trains an expert on its cluster's data alone; the merged model also sends it everybody else's, to
whom a change that they never saw is noise. Let an expert's loss be quadratic, with owners who want the
change ``d`` and others who want none: with ``p`` the owners' share of what the full router sends it, ``p d``
is best for all together. Where the others want some of it too, more than that is: the square root of ``p``
lies between, and measured best (docs/LOG.md). Devices go on from the whole change: their sub-model serves
them alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId
from strategy.assignment import Assignment
from strategy.messages import Profile

Take = Literal["whole", "root-share", "share"]
"""How much of an expert's change the merged model takes: 1, sqrt p or p, with p its owners' share."""

_STRENGTH: Mapping[Take, Callable[[float], float]] = {
    "whole": lambda _: 1.0,
    "root-share": math.sqrt,
    "share": lambda share: share,
}


def serving_values(
    values: ExpertArrays,
    initial: ExpertArrays,
    assignment: Assignment | None,
    profiles: Iterable[Profile],
    layers: Sequence[int],
    take: Take,
) -> ExpertArrays:
    """Return the arrays of the merged model.

    Parameters
    ----------
    values, initial : ExpertArrays
        Of the server, now and before the first merge. Of a LoRA pair ``B`` alone is scaled, and with it the
        product.
    assignment : Assignment or None
        Who owns what; None: nothing was trained yet.
    profiles : iterable of Profile
        Of the nodes that host the devices now.
    layers : sequence of int
        MoE layers, in the order of a profile's mass.
    take : {"whole", "root-share", "share"}
        The rule.
    """
    if assignment is None or take == "whole":
        return values
    strength = {e: _STRENGTH[take](share) for e, share in owner_shares(assignment, profiles, layers).items()}
    if all(factor == 1.0 for factor in strength.values()):
        return values
    return {
        key: value
        if key.name.endswith("lora_A") or strength.get(key.expert, 1.0) == 1.0
        else initial[key] + np.float32(strength[key.expert]) * (value - initial[key])
        for key, value in values.items()
    }


def owner_shares(
    assignment: Assignment, profiles: Iterable[Profile], layers: Sequence[int]
) -> dict[ExpertId, float]:
    """Return the share in [0, 1] of an assigned expert's gate mass that the clusters it is assigned to give.

    Clusters count alike, however much data they have, as in the assignment and in the mean held-out loss. An
    expert that nobody's data uses is its owners' alone: 1.
    """
    routed = _routed_shares(profiles, layers)
    owners: dict[ExpertId, set[str]] = {}
    for name, experts in assignment.experts.items():
        for expert in experts:
            owners.setdefault(expert, set()).add(name)
    shares = {}
    for expert, of in owners.items():
        sent = {name: float(by_layer[expert.layer][expert.index]) for name, by_layer in routed.items()}
        # What is others' is summed, so that of an expert without others the share is 1 exactly.
        others = sum(mass for name, mass in sent.items() if name not in of)
        shares[expert] = max(0.0, 1.0 - others / (sum(sent.values()) or 1.0))
    return shares


def _routed_shares(
    profiles: Iterable[Profile], layers: Sequence[int]
) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Return by cluster and layer the part of its gate mass that goes to each expert ``[E]``."""
    heard: dict[str, list[Profile]] = {}
    for profile in profiles:
        heard.setdefault(profile.cluster, []).append(profile)
    routed: dict[str, dict[int, NDArray[np.float64]]] = {}
    for name, of_cluster in heard.items():
        mass = [np.sum(of_layer, axis=0) for of_layer in zip(*(p.mass for p in of_cluster), strict=True)]
        routed[name] = {
            layer: mass_E / (mass_E.sum() or 1.0) for layer, mass_E in zip(layers, mass, strict=True)
        }
    return routed
