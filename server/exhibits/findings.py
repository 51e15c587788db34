"""From a run's values to ``findings.json``: who uses which expert, how far each moved, what models say."""

from collections.abc import Mapping, Sequence

from moe.experts import ExpertArrays, ExpertId, ExpertLayout, Tuning
from moe.tuning.movement import change_norms
from server.record.scene import Completion, Findings

Relevance = Mapping[str, Sequence[Sequence[float]]]
"""Cluster -> layer -> routing mass of each expert."""


def findings_of(
    layout: ExpertLayout,
    tuning: Tuning,
    initial: ExpertArrays,
    values: ExpertArrays,
    *,
    relevance: Relevance,
    completions: tuple[Completion, ...],
) -> Findings:
    """Return what only the models can say at the end of a run."""
    norms = change_norms(layout, initial, values, tuning)
    return Findings(
        relevance={name: _shares(layers) for name, layers in relevance.items()},
        moved=tuple(
            tuple(norms.get(ExpertId(layer, index), 0.0) for index in range(count))
            for layer, count in layout.num_experts.items()
        ),
        completions=completions,
    )


def _shares(layers: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Return the routing mass of every layer as shares that add up to one."""
    return tuple(tuple(mass / (sum(layer) or 1.0) for mass in layer) for layer in layers)
