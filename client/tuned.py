"""A sub-model ready to be tuned: what a device trains, and what the server measures for it."""

from collections.abc import Iterable

from torch import nn

from moe.adapters import attach
from moe.device import choose_device, to_device
from moe.experts import ExpertId, Tuning
from moe.submodel import load_submodel
from server.config import RunConfig


def load_tuned(config: RunConfig, path: str, tuning: Tuning, experts: Iterable[ExpertId]) -> nn.Module:
    """Return the sub-model of these experts, lazily read, with their tuned arrays attached."""
    keep: dict[int, list[int]] = {}
    for expert in sorted(experts):
        keep.setdefault(expert.layer, []).append(expert.index)
    model = attach(load_submodel(path, keep, absent=config.model.absent, dtype=config.model.dtype), tuning)
    return to_device(model, choose_device(config.model.device))
