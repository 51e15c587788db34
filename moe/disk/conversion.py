"""How disk tensors become model tensors: transformers' weight converters, run for what is asked.

This file and ``moe.disk.storage`` alone use transformers' loading internals, which may change between its
versions: the version is pinned, and the laws' tests hold them to it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from moe.disk.shards import Checkpoint

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
        self, target: str, tensors: Mapping[str, torch.Tensor], model: "PreTrainedModel | LoneExpert"
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


class LoneExpert:
    """Stands in for a model where converters run for one expert.

    They may ask a model for the shape of a parameter: files of qwen3_vl_moe are ``[E, in, out]`` if
    the model's shape says so. Of one expert, that is the same shape with one row.

    Parameters
    ----------
    model : PreTrainedModel
        Whose converters.
    shapes : Mapping[str, Sequence[int]]
        Tensor -> its shape with all experts: the model's to read, the disk's to write.
    """

    def __init__(self, model: PreTrainedModel, shapes: Mapping[str, Sequence[int]]) -> None:
        self.config = model.config
        self._model = model
        self._shapes = shapes

    @cached_property
    def _weight_conversions(self) -> list[Any]:
        """Where transformers looks for them when it writes; chosen as it does for a model it has not read."""
        mapping = get_model_conversion_mapping(self._model, add_legacy=False)
        return [entry for entry in mapping if not isinstance(entry, PrefixChange)]

    def get_parameter(self, name: str) -> torch.Tensor:
        """Return an empty tensor of one expert's shape."""
        return torch.empty((1, *self._shapes[name][1:]), device="meta")


class Names:
    """Where transformers takes the tensors of a disk name, for one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        mapping = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._wanted: dict[str, Any] = model.state_dict()
        self._prefix = model.base_model_prefix
        self.by_pattern = {p: entry for entry in self._converters for p in entry.source_patterns}

    def find(self, name: str) -> tuple[str, str | None] | None:
        """Return the model tensor that a disk tensor feeds, and by which converter's pattern if by any."""
        target, pattern = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._wanted
        )
        if target not in self._wanted and name in self._wanted:
            return name, None
        return (target, pattern) if target in self._wanted else None


def match_targets(checkpoint: Checkpoint, names: Names) -> dict[str, Target]:
    """Return what feeds each tensor of a model, by its name; disk tensors no one wants are left out."""
    targets: dict[str, Target] = {}
    for name in sorted(checkpoint.tensors):
        found = names.find(name)
        if found is not None:
            target, pattern = found
            converter = names.by_pattern[pattern] if pattern is not None else None
            targets.setdefault(target, Target(converter)).sources[pattern or name].append(name)
    return targets


def expert_number(name: str) -> int | None:
    """Return which expert a disk tensor belongs to, by its name; None if it holds all of them."""
    match = _EXPERT_NUMBER.search(name)
    return int(match.group(0)) if match else None
