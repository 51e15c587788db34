"""Sub-models ready to be tuned: what a device trains, and what the server measures for it."""

from collections.abc import Iterable
from functools import cache
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from moe.device import choose_device, to_device
from moe.disk.layout import read_layout
from moe.experts import ExpertId, ExpertLayout, Tuning
from moe.submodel.load import load_streamed, load_submodel, streamed_experts
from moe.tuning.adapters import attach
from moe.tuning.memory_budget import kept_expert_bytes, tuned_shared_bytes
from scenario.model_cache import ModelCache
from scenario.settings.config import RunConfig
from scenario.stand_ins import load_profiling

MEGABYTE = 1_000_000
KEPT_SHARE = 0.5
"""Of ``model.kept-mb`` that the experts of a profiling model may have: they are then read only once."""


class TunedModels:
    """The models of one process, kept within ``model.kept-mb``.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path : str
        Folder of the base checkpoint.
    tuning : Tuning
        How experts are tuned.
    """

    def __init__(self, config: RunConfig, path: str, tuning: Tuning) -> None:
        @cache
        def layout() -> ExpertLayout:
            return read_layout(path, config.model.dtype, config.model.hold)

        max_bytes = int(config.model.kept_mb * MEGABYTE)

        def keeps_all() -> bool:
            return layout().total_bytes <= max_bytes * KEPT_SHARE

        def load(experts: frozenset[ExpertId] | None) -> nn.Module:
            if experts is not None:
                return load_tuned(config, path, tuning, experts)
            device = choose_device(config.model.device)
            if config.uses_stand_ins:
                return to_device(load_profiling(config, path), device)
            model = to_device(load_streamed(path, dtype=config.model.dtype, hold=config.model.hold), device)
            for module in streamed_experts(model) if keeps_all() else ():
                module.read = cache(module.read)
            return model

        def expected_bytes(experts: frozenset[ExpertId] | None) -> int:
            if experts is None and keeps_all() and not config.uses_stand_ins:
                return layout().total_bytes
            return submodel_bytes(layout(), tuning, experts or ())

        # No method of ours in it: a cycle would outlive the run until Python looks for cycles.
        self._kept = ModelCache(load, expected_bytes=expected_bytes, max_bytes=max_bytes)

    def submodel(self, experts: Iterable[ExpertId]) -> nn.Module:
        """Return the sub-model of these experts with their tuned arrays attached, of whatever values."""
        return self._kept.get(frozenset(experts))

    def profiling(self) -> PreTrainedModel:
        """Return the model to profile with: the shared part, with something in the place of all experts.

        A device that can only hold its sub-model must still say which experts it needs. They come from disk
        one by one, and the numbers are those of the full model; or stand-ins are in their place, and the
        numbers are near. It is one of those kept, for its shared part is as large as theirs.
        """
        return cast(PreTrainedModel, self._kept.get(None))


def submodel_bytes(layout: ExpertLayout, tuning: Tuning, experts: Iterable[ExpertId]) -> int:
    """Return what a sub-model of these experts holds while it is not trained; see `moe.tuning`."""
    of_one = kept_expert_bytes(layout, tuning)
    shared = layout.shared_bytes + tuned_shared_bytes(layout, tuning)
    return shared + sum(of_one[expert.layer] for expert in experts)


def load_tuned(config: RunConfig, path: str, tuning: Tuning, experts: Iterable[ExpertId]) -> nn.Module:
    """Return the sub-model of these experts, lazily read, with their tuned arrays attached."""
    keep: dict[int, list[int]] = {}
    for expert in sorted(experts):
        keep.setdefault(expert.layer, []).append(expert.index)
    of = config.model
    model = attach(load_submodel(path, keep, absent=of.absent, dtype=of.dtype, hold=of.hold), tuning)
    return to_device(model, choose_device(of.device))
