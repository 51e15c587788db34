"""How disk tensors become model tensors: transformers' weight converters, run for what is asked.

This file and ``moe.storage`` alone use transformers' loading internals, which may change between its
versions: the version is pinned, and the laws' tests hold them to it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from moe.shards import Checkpoint

_EXPERT_NUMBER = re.compile(r"(?<=[._]experts[._])(\d+)(?=\.)|(?<=\.expert_)(\d+)(?=\.)")


@dataclass(slots=True)
class Target:
    """What feeds one model tensor: a converter or none, and the disk names by converter pattern."""

    converter: WeightConverter | None
    sources: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def names(self) -> list[str]:
        """Every disk name that feeds it."""
        return [name for names in self.sources.values() for name in names]

    @property
    def is_joined(self) -> bool:
        """Whether one expert's fused tensor is its disk tensors one after another, as in most families."""
        if self.converter is None:
            return False
        merge, *rest = self.converter.operations
        is_stacked = isinstance(merge, MergeModulelist) and merge.dim == 0
        return is_stacked and (
            not rest or (len(rest) == 1 and isinstance(rest[0], Concatenate) and rest[0].dim == 1)
        )

    @property
    def ordered_names(self) -> list[str]:
        """The disk names in the order in which a converter joins them."""
        patterns = self.sources if self.converter is None else self.converter.source_patterns
        return [name for pattern in patterns for name in self.sources.get(pattern, ())]

    def convert(
        self, target: str, tensors: Mapping[str, torch.Tensor], model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        """Return the model tensors these disk tensors make."""
        if self.converter is None:
            return {target: tensors[self.names[0]]}
        converter: Any = deepcopy(self.converter)
        for pattern, names in self.sources.items():
            for name in names:
                if name in tensors:
                    converter.add_tensor(target, name, pattern, tensors[name])
        made = converter.convert(target, model=model, config=model.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in made.items()}


def match_targets(checkpoint: Checkpoint, model: PreTrainedModel) -> dict[str, Target]:
    """Return what feeds each tensor of a model, by its name; disk tensors no one wants are left out."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    wanted: dict[str, Any] = model.state_dict()
    prefix = model.base_model_prefix
    targets: dict[str, Target] = {}
    for name in sorted(checkpoint.tensors):
        target, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = name, None
        if target in wanted:
            converter = by_pattern[pattern] if pattern is not None else None
            targets.setdefault(target, Target(converter)).sources[pattern or name].append(name)
    return targets


def expert_number(name: str) -> int | None:
    """Return which expert a disk tensor belongs to, by its name; None if it holds all of them."""
    match = _EXPERT_NUMBER.search(name)
    return int(match.group(0)) if match else None


def as_first_expert(name: str) -> str:
    """Return the disk name that expert 0 has for the same tensor."""
    return _EXPERT_NUMBER.sub("0", name, count=1)
