"""Names on disk and names in the model.

A checkpoint may store experts one by one (``experts.3.w1.weight``) where the model fuses them
(``gate_up_proj[3]``). transformers describes the way there with weight converters. Here they are run
for a single expert, so that an expert can be read, or written back, without its layer.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import LoadStateDictConfig

from moe.disk.conversion import LoneExpert, Names, expert_number, match_targets
from moe.disk.fit import check_fit
from moe.disk.shards import TORCH_DTYPES, Checkpoint, Hold, PackedWeight, Part, ReadJoined, Source, locate
from moe.factors import PROJECTIONS
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
    hold : {"dequantised", "file"}
        How what is packed in the files is held in memory, see `moe.disk.shards.Hold`.

    Raises
    ------
    ValueError
        If tensors are missing or of another shape than the configuration asks for; all at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PreTrainedModel,
        blocks: tuple[MoEBlock, ...],
        hold: Hold = "dequantised",
    ) -> None:
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
        self.hold = hold
        self._reader = LoneExpert(model, {target: wanted[target].shape for target in self._expert_targets})
        check_fit(checkpoint, model, self._targets, self._expert_targets)

    @property
    def shared_names(self) -> list[str]:
        """Disk names of everything the model uses that is not a routed expert."""
        return [name for _, name in self._shared()]

    @property
    def shared_bytes(self) -> int:
        """Bytes of everything but the routed experts, as the model is held."""
        packed = self.packed_linears.values()
        return sum(
            self.checkpoint.raw_bytes(name)
            if name in packed
            else self._held_bytes(name, self.checkpoint.tensors[name].num_bytes, self._held_dtype(target))
            for target, name in self._shared()
        )

    @cached_property
    def packed_linears(self) -> dict[str, str]:
        """Linear layers that are held as they lie in the file: layer -> disk name of its weight."""
        tied = set(self.model.all_tied_weights_keys) | set(self.model.all_tied_weights_keys.values())
        return {
            target.removesuffix(".weight"): entry.names[0]
            for target, entry in self._targets.items()
            if self.hold == "file"
            and target.endswith(".weight")
            and target not in self._expert_targets
            and target not in tied
            and entry.converter is None
            and entry.names[0] in self.checkpoint.packed
            and type(self.model.get_submodule(target.removesuffix(".weight"))) is nn.Linear
            and self._held_dtype(target) == self.model.dtype
        }

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
        return [name for name in self.checkpoint.tensors if name not in self.used_names]

    @cached_property
    def used_names(self) -> frozenset[str]:
        """Disk names of what the model is made of."""
        return frozenset(name for entry in self._targets.values() for name in entry.names)

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

    def held_as(self, hold: Hold) -> "Storage":
        """Return the same checkpoint, to be held otherwise; for what that would take."""
        return Storage(self.checkpoint, self.model, tuple(self.blocks.values()), hold)

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
        raw = {
            source: self.checkpoint.raw_bytes(*source)
            for projection in PROJECTIONS
            for source in self._packed_sources(layer, index, projection)
        }
        return sum(raw.values()) + sum(
            self._held_bytes(name, locate(self.checkpoint.tensors[name], part)[1], self.model.dtype)
            for name, part in self.expert_names(layer, index).items()
            if (name, part) not in raw
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
        self, layer: int, index: int, projection: str, read: ReadJoined | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return weight ``[out, in]`` and bias of one of an expert's two linear layers, as `read_expert`.

        ``read`` stands in the place of `Checkpoint.read_joined`, and is asked for the same.
        """
        fused = self._read(self._targets_for(layer, index, projection), index, read)
        weights, biases = self.blocks[layer].unfuse(fused, (projection,))
        return weights[projection], biases[projection]

    def read_packed(self, layer: int, index: int, projection: str) -> PackedWeight | None:
        """Return one of an expert's two weights in the file's few bits; None if it is not to be held so."""
        sources = self._packed_sources(layer, index, projection)
        if not sources:
            return None
        targets = [t for t in self._targets_for(layer, index, projection) if not t.endswith("_bias")]

        def assemble(read: ReadJoined) -> torch.Tensor:
            fused = self._read(targets, index, read)
            return self.blocks[layer].unfuse(fused, (projection,))[0][projection]

        return self.checkpoint.hold(sources, assemble, self.blocks[layer].shape(projection))

    def hold_whole(self, name: str) -> PackedWeight:
        """Return the weight of one of `packed_linears` by its disk name."""
        rows, columns = self.checkpoint.tensors[name].shape
        return self.checkpoint.hold([(name, None)], lambda read: read([name], None), (rows, columns))

    def read_bias(self, layer: int, index: int, projection: str) -> torch.Tensor | None:
        """Return the bias of one of an expert's two linear layers, if it has one."""
        name = f"{self.blocks[layer].family.projections[projection][0]}_bias"
        targets = [t for t in self._targets_of(layer, index) if self._expert_targets[t][1] == name]
        return self._read(targets, index)[name][0] if targets else None

    def _targets_for(self, layer: int, index: int, projection: str) -> list[str]:
        """Return the model tensors that make one of an expert's two linear layers."""
        names = self.blocks[layer].stored_names(projection)
        every = self._targets_of(layer, index)
        own = [target for target in every if self._expert_targets[target][1] in names]
        # Where one converter makes both projections, all of the expert.
        return own if {self._expert_targets[target][1] for target in own} >= set(names) else every

    def _packed_sources(self, layer: int, index: int, projection: str) -> list[Source]:
        """Return what is held of a weight where it is held in the file's few bits; nothing elsewhere."""
        if self.hold != "file":
            return []
        targets = [t for t in self._targets_for(layer, index, projection) if not t.endswith("_bias")]
        sources = [source for target in targets for source in self._expert_sources(target, index)]
        return sources if any(name in self.checkpoint.packed for name, _ in sources) else []

    def _read(
        self, targets: Iterable[str], index: int, read: ReadJoined | None = None
    ) -> dict[str, torch.Tensor]:
        read = read or self.checkpoint.read_joined
        tensors: dict[str, torch.Tensor] = {}
        for target in targets:
            sources = self._expert_sources(target, index)
            if self._targets[target].is_joined and all(part is None for _, part in sources):
                # Straight into place: the converter would hold each weight three times for a while.
                value = read([name for name, _ in sources], None)[None]
                tensors[self._expert_targets[target][1]] = value
                continue
            raw = {name: read([name], part) for name, part in sources}
            made = self._targets[target].convert(target, raw, self._reader)
            tensors |= {self._expert_targets[name][1]: value for name, value in made.items()}
        return tensors

    def to_disk(self, layer: int, index: int, fused: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return one expert's parts as the tensors, or parts of tensors, that this checkpoint stores."""
        block, writer = self.blocks[layer], cast(Any, self._writer)
        own = {block.tensor_name(name, index): value for name, value in fused.items()}
        reverted = revert_weight_conversion(writer, own)
        # What transformers writes need not have the disk's names (a lone expert is numbered 0, a bare base
        # model's lack a prefix, older ones differ, GGUF has the model's), but is read into the same place.
        places: dict[Any, torch.Tensor] = {(name, None): value for name, value in own.items()}
        places |= {self._names.find(name): value for name, value in reverted.items()}
        return {name: places[self._names.find(name)] for name in self.expert_names(layer, index)}

    @cached_property
    def _writer(self) -> LoneExpert:
        return LoneExpert(self.model, {name: spec.shape for name, spec in self.checkpoint.tensors.items()})

    def load_shared(self, dtype: torch.dtype) -> None:
        """Fill the model with everything but the experts, whose modules the caller has taken out."""
        packed = set(self.packed_linears.values())
        names = [name for name in self.shared_names if name not in packed]
        self._load({name: self.checkpoint.map(name) for name in names}, dtype)

    def load_all(self, dtype: torch.dtype) -> None:
        """Fill the model, whole; each tensor is read when its turn comes."""
        names = [name for entry in self._targets.values() for name in entry.names]
        self._load({name: _Unread(self.checkpoint, name) for name in names}, dtype)

    def _load(self, values: Mapping[str, Any], dtype: torch.dtype) -> None:
        mapping: Any = get_model_conversion_mapping(self.model)
        config = LoadStateDictConfig(
            weight_mapping=mapping,
            dtype=dtype,
            dtype_plan=self.model._get_dtype_plan(dtype),
            # transformers 5.23 wants rows of identity experts too, which files need not have.
            ignore_mismatched_sizes=self.lacks_identity_rows,
        )
        with quiet_loading():
            info, _ = self.model._load_pretrained_model(self.model, dict(values), None, config)
            self.model._finalize_model_loading(self.model, config, info)
        is_wrong = info.mismatched_keys and not self.lacks_identity_rows
        if info.missing_keys or is_wrong or info.error_msgs:
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


class _Unread:
    """A tensor of a checkpoint that is read when it is indexed, as those of safetensors are."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self._checkpoint.map(self._name)
