"""Refuse checkpoints that do not hold what their configuration asks for."""

import re
from collections.abc import Mapping
from itertools import islice

import torch
from transformers import PreTrainedModel

from moe.disk.conversion import Target, expert_number
from moe.disk.shards import TORCH_DTYPES, Checkpoint
from moe.families.blocks import MoEBlock

ExpertTargets = Mapping[str, tuple[MoEBlock, str]]
"""Model tensor that holds experts -> their block, and the stored name."""


def check_fit(
    checkpoint: Checkpoint, model: PreTrainedModel, targets: Mapping[str, Target], experts: ExpertTargets
) -> None:
    """Refuse tensors that are missing, or of another shape or kind than the configuration asks for.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is on disk.
    model : PreTrainedModel
        The full model on the meta device.
    targets : Mapping[str, Target]
        Model tensor -> what feeds it.
    experts : ExpertTargets
        Which of them hold experts.

    Raises
    ------
    ValueError
        All faults of one kind at once.
    """
    faults = (
        _missing(model, targets, experts)
        or _misshapen(checkpoint, model, targets, experts)
        or _mistyped(checkpoint, model, targets)
    )
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(
            f"checkpoint {checkpoint.folder} does not fit its config.json: "
            f"{'; '.join(faults[:8])}{more}; download or save it again"
        )


def _missing(model: PreTrainedModel, targets: Mapping[str, Target], experts: ExpertTargets) -> list[str]:
    made = _made_targets(targets)
    tied = set(model.all_tied_weights_keys)
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or []]
    faults = [
        f"no tensor for {target}"
        for target in model.state_dict()
        if target not in made and target not in tied and not any(p.search(target) for p in ignored)
    ]
    for target, (block, _) in experts.items():
        if target not in targets or not block.is_stacked:
            continue
        for pattern, names in targets[target].sources.items():
            numbers = {expert_number(name) for name in names}
            absent = (index for index in range(block.num_experts) if index not in numbers)
            if None not in numbers and (first := list(islice(absent, 5))):
                faults.append(f"no {pattern} of experts {first} for {target}")
    return faults


def _made_targets(targets: Mapping[str, Target]) -> set[str]:
    """Return every model tensor the disk feeds, counting converters that make several."""
    made = set(targets)
    for target, entry in targets.items():
        if entry.converter is not None and len(entry.converter.target_patterns) > 1:
            first = entry.converter.target_patterns[0]
            made |= {target.replace(first, other) for other in entry.converter.target_patterns}
    return made


def _misshapen(
    checkpoint: Checkpoint, model: PreTrainedModel, targets: Mapping[str, Target], experts: ExpertTargets
) -> list[str]:
    wanted = model.state_dict()
    faults: list[str] = []
    for target, entry in targets.items():
        specs = {name: checkpoint.tensors[name] for name in entry.names}
        raw = {n: torch.empty(s.shape, dtype=TORCH_DTYPES[s.dtype], device="meta") for n, s in specs.items()}
        shapes = {name: list(spec.shape) for name, spec in list(specs.items())[:3]}
        try:
            made = entry.convert(target, raw, model)
        except Exception as error:
            # Whatever a converter raises on shapes that do not go together is the same fault.
            faults.append(f"{target}: {shapes} do not go together ({str(error).splitlines()[0][:120]})")
            continue
        for name, value in made.items():
            if name in wanted and not _fits(name, value.shape, wanted[name].shape, experts):
                faults.append(
                    f"{name} must be {list(wanted[name].shape)} by config.json, "
                    f"got {list(value.shape)} from {shapes}"
                )
    return faults


def _mistyped(checkpoint: Checkpoint, model: PreTrainedModel, targets: Mapping[str, Target]) -> list[str]:
    """Return tensors of whole numbers where the model has fractions: quantised weights, unsaid."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    return [
        f"{name} is stored as {spec.dtype}, whole numbers, where the model has fractions for {target} "
        "(if it is quantised, save a dequantised copy)"
        for target, entry in targets.items()
        for name in entry.names
        for spec in [checkpoint.tensors[name]]
        if dtypes.get(target, torch.int64).is_floating_point
        and not TORCH_DTYPES[spec.dtype].is_floating_point
    ]


def _fits(name: str, found: torch.Size, wanted: torch.Size, experts: ExpertTargets) -> bool:
    if name not in experts:
        return found == wanted
    has_identity = any(block.family.num_identity for block, _ in experts.values())
    # Rows of identity experts, which nothing reads, may be there or not.
    fewest = torch.Size([experts[name][0].num_experts, *wanted[1:]])
    return found == wanted or (has_identity and found == fewest)
