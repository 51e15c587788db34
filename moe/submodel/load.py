"""The full model, and a really smaller one: shared layers, full router, some of the experts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from moe.device import trim
from moe.disk.layout import auto_class, open_storage, read_config, resolve_dtype
from moe.disk.shards import Hold
from moe.disk.storage import Storage
from moe.factors import PROJECTIONS
from moe.families.blocks import MoEBlock, find_blocks
from moe.held import refuse_part
from moe.quiet import quiet_loading
from moe.submodel.absent import Absent, check_absent
from moe.submodel.expert_subset import Expert, ExpertSubset, expert_subsets, linear
from moe.submodel.packed_linear import PackedLinear
from moe.submodel.subset_block import SubsetBlock
from moe.submodel.whole_layer import WholeLayer


def load_full(path: str | Path, *, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Return the whole model, frozen, in evaluation mode.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.
    dtype : torch.dtype or str
        ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the checkpoint's own.

    Raises
    ------
    ValueError
        As `moe.disk.layout.read_layout`.
    """
    storage = open_storage(path, dtype)
    refuse_part(storage.checkpoint.held)
    if storage.checkpoint.packed:
        storage.load_all(storage.model.dtype)
        if storage.lacks_identity_rows:
            _fill_experts(storage.model, storage)
        return _freeze(storage.model)
    with quiet_loading():
        model: PreTrainedModel = auto_class(storage.model.config).from_pretrained(
            storage.checkpoint.folder,
            config=read_config(storage.checkpoint),
            dtype=resolve_dtype(dtype, storage.checkpoint),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            # Nothing is generated here: a broken generation_config.json is not to end it.
            generation_config=GenerationConfig(),
            # transformers 5.23 wants rows of identity experts too, which files need not have.
            ignore_mismatched_sizes=storage.lacks_identity_rows,
        )
    if storage.lacks_identity_rows:
        _fill_experts(model, storage)
    return _freeze(model)


def load_submodel(
    path: str | Path,
    keep: Mapping[int, Sequence[int]],
    *,
    absent: str = "reroute",
    dtype: torch.dtype | str = "auto",
    hold: Hold = "dequantised",
) -> PreTrainedModel:
    """Return a model that holds only the kept experts, each as two linear layers.

    Reads the shared tensors and the kept experts, nothing else. The router is whole and frozen.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.
    keep : Mapping[int, Sequence[int]]
        Decoder layer -> experts to keep, by their index in the full model. A layer may keep none,
        and a layer that is not named keeps none.
    absent : {"reroute", "restrict", "renormalise", "mask"}
        What becomes of choices of other experts; see `moe.submodel.absent.choose_kept`.
    dtype : torch.dtype or str
        As `load_full`.
    hold : {"dequantised", "file"}
        ``file``: what is packed in the files stays so in memory, and is expanded as it is used.

    Raises
    ------
    ValueError
        As `moe.disk.layout.read_layout`; if ``keep`` names a layer or expert the model lacks.
    """
    return build_submodel(open_storage(path, dtype, hold), keep, absent=check_absent(absent))


def build_submodel(storage: Storage, keep: Mapping[int, Sequence[int]], *, absent: Absent) -> PreTrainedModel:
    """Turn the empty model of an opened checkpoint into a sub-model; uses ``storage`` up."""
    chosen = check_keep(storage.blocks, keep)
    model, blocks = _load_shared(storage)
    for block in blocks:
        experts = {index: _read_expert(storage, block, index, model.dtype) for index in chosen[block.layer]}
        _replace(model, block.path, ExpertSubset(block, experts, absent))
        if storage.checkpoint.packed:
            trim()
    return _freeze(model)


ReadProjection = Callable[[int, str], tuple[Tensor, Tensor | None]]


class StreamedExperts(ExpertSubset, WholeLayer):
    """All experts of a layer, each linear layer read from disk when tokens come to it, forgotten after.

    For profiling and measuring: it has no parameters to tune.

    Parameters
    ----------
    block : MoEBlock
        The block whose experts it stands for.
    read : callable
        Expert and projection -> weight ``[out, in]`` and bias, as `Storage.read_projection`. It may be set
        anew.
    dtype : torch.dtype
        Type the experts compute in.
    """

    def __init__(self, block: MoEBlock, read: ReadProjection, dtype: torch.dtype) -> None:
        super().__init__(block, {}, "mask")
        self._hold(tuple(range(block.num_experts)))
        self.read, self._dtype = read, dtype

    def forward(self, hidden_TH: Tensor, *routing: Tensor, **named_routing: Tensor) -> Tensor:
        """Return the experts' weighted sum, or zeros where nobody will look at it (`is_skipped`)."""
        if self.is_skipped:
            return torch.zeros_like(hidden_TH)
        return super().forward(hidden_TH, *routing, **named_routing)

    def layer_of(self, index: int, projection: str) -> nn.Module:
        """Read one of an expert's two linear layers."""
        weight, bias = self.read(index, projection)
        layer = linear(weight.to(self._dtype), None if bias is None else bias.to(self._dtype))
        # Where the tokens are: `forward` takes its look-up tables there.
        return layer.to(self._local_E.device)


def load_streamed(
    path: str | Path, *, dtype: torch.dtype | str = "auto", hold: Hold = "dequantised"
) -> PreTrainedModel:
    """Return the whole model for inference in the memory of its shared part and a layer of one expert.

    Every forward pass reads the experts its tokens choose: give it few, large batches. It computes
    what `load_full` computes, to the bit where both run the same matrix products.

    Parameters
    ----------
    path, dtype, hold
        As `load_submodel`.

    Raises
    ------
    ValueError
        As `moe.disk.layout.read_layout`.
    """
    storage = open_storage(path, dtype, hold)

    def streamed(block: MoEBlock) -> nn.Module:
        return StreamedExperts(block, partial(storage.read_projection, block.layer), storage.model.dtype)

    return build_around(storage, streamed)


def build_around(storage: Storage, experts_of: Callable[[MoEBlock], nn.Module]) -> PreTrainedModel:
    """Return the shared part of an opened checkpoint with modules of the caller's for the experts.

    Reads no byte of an expert; uses ``storage`` up.

    Parameters
    ----------
    storage : Storage
        From `moe.disk.layout.open_storage`.
    experts_of : callable
        Block -> what stands in the place of its experts, called as ``experts(hidden_TH, choice_TK,
        weight_TK)``.
    """
    model, blocks = _load_shared(storage)
    for block in blocks:
        _replace(model, block.path, experts_of(block))
    return _freeze(model)


def streamed_experts(model: nn.Module) -> tuple[StreamedExperts, ...]:
    """Return the experts modules of a streamed model by layer; empty for other models."""
    found = (module for module in model.modules() if isinstance(module, StreamedExperts))
    return tuple(sorted(found, key=lambda module: module.layer))


def check_keep(
    blocks: Mapping[int, MoEBlock], keep: Mapping[int, Sequence[int]]
) -> dict[int, tuple[int, ...]]:
    """Return the kept experts of every MoE layer, sorted.

    Raises
    ------
    ValueError
        If a layer or an expert does not exist or is named twice; all faults at once.
    """
    faults = [f"layer {layer} has no experts" for layer in keep if layer not in blocks]
    for layer, block in blocks.items():
        experts = list(keep.get(layer, ()))
        outside = [index for index in experts if not 0 <= index < block.num_experts]
        if outside:
            faults.append(f"layer {layer} has experts 0..{block.num_experts - 1}, not {outside}")
        if len(set(experts)) != len(experts):
            faults.append(f"layer {layer} names an expert twice: {experts}")
    if faults:
        raise ValueError(
            f"experts to keep do not fit the model: {'; '.join(faults)}; MoE layers: {sorted(blocks)}"
        )
    return {layer: tuple(sorted(keep.get(layer, ()))) for layer in blocks}


def fused_experts(model: nn.Module) -> dict[int, dict[int, dict[str, Tensor]]]:
    """Return a sub-model's experts as the full model stores them.

    Returns
    -------
    dict
        Layer -> expert -> its part of each stored tensor (see `MoEBlock.view`), adapters not included.
    """
    return {
        module.layer: {index: _fuse(module, index) for index in module.kept}
        for module in expert_subsets(model)
    }


def _fuse(module: ExpertSubset, index: int) -> dict[str, Tensor]:
    expert = module.expert(index)
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor | None] = {}
    for projection in PROJECTIONS:
        layer = getattr(expert, projection)
        linear = getattr(layer, "base_layer", layer)  # PEFT wraps the linear layer it adapts
        weights[projection] = linear.weight.detach()
        biases[projection] = None if linear.bias is None else linear.bias.detach()
    return module.block.fuse(weights, biases)


def _fill_experts(model: PreTrainedModel, storage: Storage) -> None:
    """Read every expert into a model that transformers has left without them."""
    for block in find_blocks(model):
        for index in range(block.num_experts):
            for name, part in storage.read_expert(block.layer, index).items():
                block.view(name, index).copy_(part)


def _read_expert(storage: Storage, block: MoEBlock, index: int, dtype: torch.dtype) -> Expert:
    packed = {name: storage.read_packed(block.layer, index, name) for name in PROJECTIONS}
    if not any(packed.values()):
        fused = storage.read_expert(block.layer, index)
        weights, biases = block.unfuse({name: value.to(dtype) for name, value in fused.items()})
        return Expert({name: linear(weights[name], biases[name]) for name in PROJECTIONS})
    layers: dict[str, nn.Linear] = {}
    for name, held in packed.items():
        if held is None:
            weight, bias = storage.read_projection(block.layer, index, name)
            layers[name] = linear(weight.to(dtype), None if bias is None else bias.to(dtype))
        else:
            bias = storage.read_bias(block.layer, index, name)
            layers[name] = PackedLinear(held, None if bias is None else bias.to(dtype), adds_bias_after=True)
    return Expert(layers)


def _load_shared(storage: Storage) -> tuple[PreTrainedModel, list[MoEBlock]]:
    """Fill everything but the experts, whose modules are taken out; return the blocks they were in."""
    blocks = list(storage.blocks.values())
    for block in blocks:
        if block.family.is_block_replaced:
            _replace(storage.model, block.parent_path, SubsetBlock(block))
        else:
            _replace(storage.model, block.path, _EmptyExperts(block))
    for path in storage.packed_linears:
        _replace(storage.model, path, _EmptyLinear(cast(nn.Linear, storage.model.get_submodule(path)).bias))
    storage.load_shared(storage.model.dtype)
    if storage.checkpoint.packed:
        trim()
    for path, name in storage.packed_linears.items():
        empty = cast(_EmptyLinear, storage.model.get_submodule(path))
        _replace(storage.model, path, PackedLinear(storage.hold_whole(name), empty.bias))
    return storage.model, blocks


class _EmptyLinear(nn.Module):
    """A linear layer without its weight, while the rest of a model is loaded."""

    bias: nn.Parameter | None

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_parameter("bias", bias)
        self.weight = torch.empty(0)  # as in _EmptyExperts


class _EmptyExperts(nn.Module):
    """An experts module without experts, while the rest of a model is loaded.

    It keeps what all experts share (muse_spark: a norm). Where the experts were, there is an empty
    tensor: the initialisation of some families (qwen3_omni_moe) writes to them unasked.
    """

    def __init__(self, block: MoEBlock) -> None:
        super().__init__()
        for name, child in block.family.lent().items():
            self.add_module(name, child)
        for name in block.parameters:
            setattr(self, name, torch.empty(0))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _freeze(model: PreTrainedModel) -> PreTrainedModel:
    model.requires_grad_(False)
    return model.eval()


def all_experts(blocks: Iterable[MoEBlock]) -> dict[int, tuple[int, ...]]:
    """Return the ``keep`` that keeps everything."""
    return {block.layer: tuple(range(block.num_experts)) for block in blocks}
