"""What only the models of a finished run can say: what they forgot, and how evenly their experts are used.

Shape legend: L MoE layers, E experts of a layer, N blocks, T tokens of a block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from moe.disk.layout import read_layout
from moe.experts import ExpertArrays
from moe.export.checkpoint import load_adapter
from moe.objective import mean_loss
from moe.submodel.load import load_full
from moe.submodel.routing import routing_mass
from moe.tuning.adapters import initial_arrays
from scenario.derive import population_from, text_from, tuning_from
from scenario.model_name import resolve_model_name
from scenario.settings.config import RunConfig
from server.evaluate import Evaluator
from server.record.state import load_state

ROWS = 32
"""Blocks of a forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the models say, before and after.

    Parameters
    ----------
    others_before, others_after : float
        Loss on the text of all *other* clusters, nats a token, of the model that a device ends with; mean
        over clusters. What it rises by is forgotten.
    load_cv_before, load_cv_after : float
        Standard deviation over mean of the gate mass of an expert under the merged model's router, on
        everybody's held-out text; mean over layers. 0 is an even load.
    """

    others_before: float
    others_after: float
    load_cv_before: float
    load_cv_after: float


def models_of(folder: Path, config: RunConfig, layers: Sequence[int], *, holds_all: bool) -> Models:
    """Return what the models of a finished run say; the run tuned adapters.

    ``holds_all``: whether a device's model is the server's.
    """
    path = str(resolve_model_name(config.model.name))
    population, tuning = population_from(config), tuning_from(config, layers)
    clusters = tuple(cluster.name for cluster in population.clusters)
    evaluator = Evaluator(config, path, tuning, text_from(config, population), clusters)
    blocks = {name: evaluator.heldout(name) for name in clusters}
    base, merged = load_full(path), load_adapter(path, folder / "adapter").merge_and_unload()
    before, after = (_others_of_one(model, blocks) for model in (base, merged))
    if not holds_all:
        initial = initial_arrays(path, tuning, read_layout(path).experts)
        before, after = _others_of_each(folder, evaluator, initial, blocks)
    return Models(
        others_before=before,
        others_after=after,
        load_cv_before=load_cv(_mass(base, blocks)),
        load_cv_after=load_cv(_mass(merged, blocks)),
    )


def load_cv(mass_LE: NDArray[np.float64]) -> float:
    """Return how unevenly a load is spread over experts: standard deviation over mean, mean over layers."""
    return float((mass_LE.std(axis=1) / mass_LE.mean(axis=1)).mean())


def mean_of_others(losses: Mapping[str, Mapping[str, float]]) -> float:
    """Return the mean over clusters of what each one's model has on the text of the others.

    Parameters
    ----------
    losses : Mapping
        Cluster whose model it is -> cluster whose text -> loss.
    """
    return fmean(fmean(loss for of, loss in row.items() if of != name) for name, row in losses.items())


def _others_of_one(model: torch.nn.Module, blocks: Mapping[str, NDArray[np.int64]]) -> float:
    row = {name: mean_loss(model, rows_NT, ROWS) for name, rows_NT in blocks.items()}
    return mean_of_others(dict.fromkeys(blocks, row))


def _others_of_each(
    folder: Path, evaluator: Evaluator, initial: ExpertArrays, blocks: Mapping[str, NDArray[np.int64]]
) -> tuple[float, float]:
    """Return the others' loss of every cluster's sub-model, untrained and at the end."""
    state, _, _ = load_state(folder)
    assert state.assignment is not None, f"{folder} ended before its assignment"
    found = []
    for values in (initial, state.values):
        losses = {}
        for name, experts in state.assignment.experts.items():
            model = evaluator.submodel_with(experts, values)
            losses[name] = {of: mean_loss(model, rows_NT, ROWS) for of, rows_NT in blocks.items()}
        found.append(mean_of_others(losses))
    return found[0], found[1]


def _mass(model: PreTrainedModel, blocks: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return the gate mass ``[L, E]`` of everybody's held-out text; clusters have equally many blocks."""
    rows_NT = torch.from_numpy(np.concatenate(list(blocks.values())))
    return routing_mass(model, rows_NT.split(ROWS))
