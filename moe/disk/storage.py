"""Names on disk and names in the model.

A checkpoint may store experts one by one (``experts.3.w1.weight``) where the model fuses them
(``gate_up_proj[3]``). transformers describes the way there with weight converters. Here they are run
for a single expert, so that an expert can be read, or written back, without its layer.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import LoadStateDictConfig

from moe.disk.conversion import LoneExpert, Names, expert_number, match_targets
from moe.disk.shards import TORCH_DTYPES, Checkpoint, Part, locate
from moe.families.blocks import MoEBlock
from moe.quiet import quiet_loading


class Storage:
    """How one checkpoint stores one model.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is on disk.
    model : PreTrainedModel
        The full model on the meta device.
    blocks : tuple[MoEBlock, ...]
        Its MoE blocks.

    Raises
    ------
    ValueError
        If tensors are missing or of another shape than the configuration asks for; all at once.
    """

    def __init__(self, checkpoint: Checkpoint, model: PreTrainedModel, blocks: tuple[MoEBlock, ...]) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.blocks = {block.layer: block for block in blocks}
        self._names = Names(model)
        self._targets = match_targets(checkpoint, self._names)
        self._numbered: dict[str, dict[int | None, list[str]]] = {}
        self._expert_targets = {
            block.tensor_name(stored, index): (block, stored)
            for block in blocks
            for stored in block.parameters
            for index in range(1 if block.is_stacked else block.num_experts)
        }
        wanted = model.state_dict()
        self._dtypes = {name: tensor.dtype for name, tensor in wanted.items()}
        self._reader = LoneExpert(model, {target: wanted[target].shape for target in self._expert_targets})
        self._raise_faults(self._missing() or self._misshapen() or self._mistyped())

    @property
    def shared_names(self) -> list[str]:
        """Disk names of everything the model uses that is not a routed expert."""
        return [name for _, name in self._shared()]

    @property
    def shared_bytes(self) -> int:
        """Bytes of everything but the routed experts, as the model is held."""
        return sum(
            self._held_bytes(name, self.checkpoint.tensors[name].num_bytes, self._held_dtype(target))
            for target, name in self._shared()
        )

    def _shared(self) -> list[tuple[str, str]]:
        """Return model tensor and disk name of everything the model uses that is not a routed expert."""
        return [
            (target, name)
            for target, entry in self._targets.items()
            if target not in self._expert_targets
            for name in entry.names
        ]

    @property
    def unused_names(self) -> list[str]:
        """Disk names of what the model does not use: towers of a model loaded as text, or what is over."""
        used = {name for entry in self._targets.values() for name in entry.names}
        return [name for name in self.checkpoint.tensors if name not in used]

    @property
    def blocks_have_identity(self) -> bool:
        """Whether there are experts that give back their input, behind the real ones."""
        return any(block.family.num_identity for block in self.blocks.values())

    @property
    def lacks_identity_rows(self) -> bool:
        """Whether the files hold real experts only, where the model has rows for identity experts too."""
        return self.blocks_have_identity and any(
            None not in numbers and len(set(numbers)) < block.family.num_rows(stored)
            for target, (block, stored) in self._expert_targets.items()
            for numbers in [[expert_number(name) for name in self._targets[target].names]]
        )

    def expert_names(self, layer: int, index: int) -> dict[str, Part | None]:
        """Return the disk names of one expert -> its part there (None: the whole tensor is this expert's)."""
        return {
            name: part
            for target in self._targets_of(layer, index)
            for name, part in self._expert_sources(target, index)
        }

    def disk_path(self, layer: int) -> str:
        """Return what a layer's experts module is called on disk, such as ``model.layers.0.mlp.experts``."""
        name = next(iter(self.expert_names(layer, 0)))
        before, experts, _ = name.rpartition("experts")
        return before + experts

    def stored_name(self, target: str) -> str:
        """Return the disk name of a tensor that the model takes over as it is.

        Raises
        ------
        ValueError
            If it is made from others, or changed, on its way into the model.
        """
        entry = self._targets.get(target)
        if entry is None or entry.converter is not None or len(entry.names) != 1:
            raise ValueError(
                f"checkpoint {self.checkpoint.folder} does not store {target} as the model has it"
            )
        return entry.names[0]

    def expert_bytes(self, layer: int, index: int) -> int:
        """Return the bytes of one expert, as the model is held."""
        names = self.expert_names(layer, index).items()
        return sum(
            self._held_bytes(name, locate(self.checkpoint.tensors[name], part)[1], self.model.dtype)
            for name, part in names
        )

    def _held_bytes(self, name: str, stored_bytes: int, held: torch.dtype) -> int:
        """Return what bytes of a disk tensor become in a dtype; only fractions are converted."""
        stored = TORCH_DTYPES[self.checkpoint.tensors[name].dtype]
        if not stored.is_floating_point:
            return stored_bytes
        return stored_bytes // stored.itemsize * held.itemsize

    def _held_dtype(self, target: str) -> torch.dtype:
        """Return the type a shared tensor is held in: families keep some in float32, as loading does."""
        for pattern, dtype in self.model._get_dtype_plan(self.model.dtype).items():
            if re.search(pattern.replace("*", ".*"), target):
                return cast(torch.dtype, dtype)
        wanted = self._dtypes.get(target, self.model.dtype)
        return wanted if wanted.is_floating_point else self.model.dtype

    def read_expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
        """Return one expert's parts of the stored tensors, by stored name; see `MoEBlock.view`.

        Reads this expert's bytes only, in the checkpoint's dtype; the tensors own their memory.
        """
        return self._read(self._targets_of(layer, index), index)

    def read_projection(
        self, layer: int, index: int, projection: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return weight ``[out, in]`` and bias of one of an expert's two linear layers, as `read_expert`."""
        block = self.blocks[layer]
        names = block.stored_names(projection)
        targets = [t for t in self._targets_of(layer, index) if self._expert_targets[t][1] in names]
        fused = self._read(targets, index)
        if not fused.keys() >= set(names):
            fused = self.read_expert(layer, index)  # one converter makes both projections
        weights, biases = block.unfuse(fused, (projection,))
        return weights[projection], biases[projection]

    def _read(self, targets: Iterable[str], index: int) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for target in targets:
            sources = self._expert_sources(target, index)
            if self._targets[target].is_joined and all(part is None for _, part in sources):
                # Straight into place: the converter would hold each weight three times for a while.
                value = self.checkpoint.read_joined([name for name, _ in sources])[None]
                tensors[self._expert_targets[target][1]] = value
                continue
            raw = {name: self.checkpoint.read_joined([name], part) for name, part in sources}
            made = self._targets[target].convert(target, raw, self._reader)
            tensors |= {self._expert_targets[name][1]: value for name, value in made.items()}
        return tensors

    def to_disk(self, layer: int, index: int, fused: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return one expert's parts as the tensors, or parts of tensors, that this checkpoint stores."""
        block, writer = self.blocks[layer], cast(Any, self._writer)
        reverted = revert_weight_conversion(
            writer, {block.tensor_name(name, index): value for name, value in fused.items()}
        )
        # What transformers writes need not have the disk's names (a lone expert is numbered 0, files of a
        # bare base model lack a prefix, older files have older names), but it is read into the same place.
        places = {self._names.find(name): value for name, value in reverted.items()}
        return {name: places[self._names.find(name)] for name in self.expert_names(layer, index)}

    @cached_property
    def _writer(self) -> LoneExpert:
        return LoneExpert(self.model, {name: spec.shape for name, spec in self.checkpoint.tensors.items()})

    def load_shared(self, dtype: torch.dtype) -> None:
        """Fill the model with everything but the experts, whose modules the caller has taken out."""
        values = {name: self.checkpoint.map(name) for name in self.shared_names}
        mapping: Any = get_model_conversion_mapping(self.model)
        config = LoadStateDictConfig(
            weight_mapping=mapping,
            dtype=dtype,
            dtype_plan=self.model._get_dtype_plan(dtype),
        )
        with quiet_loading():
            info, _ = self.model._load_pretrained_model(self.model, values, None, config)
            self.model._finalize_model_loading(self.model, config, info)
        if info.missing_keys or info.mismatched_keys or info.error_msgs:
            raise ValueError(
                f"checkpoint {self.checkpoint.folder} does not fit its configuration: missing "
                f"{sorted(info.missing_keys)[:5]}, misshapen {sorted(info.mismatched_keys)[:5]}; save it "
                "again"
            )

    def _targets_of(self, layer: int, index: int) -> list[str]:
        """Return the model tensors that hold an expert, each of a converter's several only once."""
        block = self.blocks[layer]
        names = [block.tensor_name(stored, index) for stored in block.parameters]
        return [name for name in names if name in self._targets]

    def _expert_sources(self, target: str, index: int) -> list[tuple[str, Part | None]]:
        """Return the disk names that feed expert ``index`` of a target, and which part of each."""
        if target not in self._numbered:
            numbered: dict[int | None, list[str]] = defaultdict(list)
            for name in self._targets[target].ordered_names:
                numbered[expert_number(name)].append(name)
            self._numbered[target] = dict(numbered)
        numbers = self._numbered[target]
        block, stored = self._expert_targets[target]
        sources: list[tuple[str, Part | None]] = [
            (name, Part(index, block.family.num_rows(stored))) for name in numbers.get(None, [])
        ]
        return sources + [(name, None) for name in numbers.get(index, [])]

    def _missing(self) -> list[str]:
        made = self._made_targets()
        tied = set(self.model.all_tied_weights_keys)
        ignored = [re.compile(pattern) for pattern in self.model._keys_to_ignore_on_load_missing or []]
        faults = [
            f"no tensor for {target}"
            for target in self.model.state_dict()
            if target not in made and target not in tied and not any(p.search(target) for p in ignored)
        ]
        for target, (block, _) in self._expert_targets.items():
            if target not in self._targets or not block.is_stacked:
                continue
            for pattern, names in self._targets[target].sources.items():
                numbers = {expert_number(name) for name in names}
                absent = (index for index in range(block.num_experts) if index not in numbers)
                if None not in numbers and (first := list(islice(absent, 5))):
                    faults.append(f"no {pattern} of experts {first} for {target}")
        return faults

    def _made_targets(self) -> set[str]:
        """Return every model tensor the disk feeds, counting converters that make several."""
        made = set(self._targets)
        for target, entry in self._targets.items():
            if entry.converter is not None and len(entry.converter.target_patterns) > 1:
                first = entry.converter.target_patterns[0]
                made |= {target.replace(first, other) for other in entry.converter.target_patterns}
        return made

    def _misshapen(self) -> list[str]:
        wanted = self.model.state_dict()
        faults: list[str] = []
        for target, entry in self._targets.items():
            specs = {name: self.checkpoint.tensors[name] for name in entry.names}
            raw = {
                n: torch.empty(s.shape, dtype=TORCH_DTYPES[s.dtype], device="meta") for n, s in specs.items()
            }
            shapes = {name: list(spec.shape) for name, spec in list(specs.items())[:3]}
            try:
                made = entry.convert(target, raw, self.model)
            except Exception as error:
                # Whatever a converter raises on shapes that do not go together is the same fault.
                faults.append(f"{target}: {shapes} do not go together ({str(error).splitlines()[0][:120]})")
                continue
            for name, value in made.items():
                if name in wanted and not self._fits(name, value.shape, wanted[name].shape):
                    faults.append(
                        f"{name} must be {list(wanted[name].shape)} by config.json, "
                        f"got {list(value.shape)} from {shapes}"
                    )
        return faults

    def _mistyped(self) -> list[str]:
        """Return tensors of whole numbers where the model has fractions: quantised weights, unsaid."""
        return [
            f"{name} is stored as {spec.dtype}, whole numbers, where the model has fractions for {target} "
            "(if it is quantised, save a dequantised copy)"
            for target, entry in self._targets.items()
            for name in entry.names
            for spec in [self.checkpoint.tensors[name]]
            if self._dtypes.get(target, torch.int64).is_floating_point
            and not TORCH_DTYPES[spec.dtype].is_floating_point
        ]

    def _fits(self, name: str, found: torch.Size, wanted: torch.Size) -> bool:
        if name not in self._expert_targets:
            return found == wanted
        # Rows of identity experts, which nothing reads, may be there or not.
        fewest = torch.Size([self._expert_targets[name][0].num_experts, *wanted[1:]])
        return found == wanted or (self.blocks_have_identity and found == fewest)

    def _raise_faults(self, faults: list[str]) -> None:
        if not faults:
            return
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(
            f"checkpoint {self.checkpoint.folder} does not fit its config.json: "
            f"{'; '.join(faults[:8])}{more}; download or save it again"
        )
