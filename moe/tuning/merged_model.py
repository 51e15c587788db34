"""The full model with tuned arrays put back into it, for evaluation; see `moe.tuning.merge`."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.device import to_device
from moe.disk.layout import layout_of, open_storage
from moe.disk.shards import Hold
from moe.disk.storage import Storage
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.factors import check_arrays
from moe.families.blocks import find_blocks
from moe.submodel.load import load_full, load_streamed, streamed_experts
from moe.tuning.merge import lora_change, merged_experts, tuned_part
from moe.tuning.router_rows import changed_weight, router_names
from moe.tuning.shared_parts import SharedWeights


class MergedModel:
    """The full model with the server's arrays merged in, for evaluation.

    Parameters
    ----------
    path : str or Path
        The base checkpoint.
    tuning : Tuning
        What the arrays mean.
    dtype : torch.dtype or str
        As `moe.submodel.load.load_full`.
    device : torch.device or str
        Where to hold it.
    streamed : bool
        Whether experts are read from disk, and their changes added, whenever tokens come to them: the
        memory is that of the shared part and one expert. The same numbers, to rounding.
    hold : {"dequantised", "file"}
        Of the shared part, where it is streamed and not tuned; as `moe.submodel.load.load_streamed`.
    """

    def __init__(
        self,
        path: str | Path,
        tuning: Tuning,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str = "cpu",
        *,
        streamed: bool = False,
        hold: Hold = "dequantised",
    ) -> None:
        self._storage = open_storage(path, dtype)
        self._layout = layout_of(self._storage)
        self._tuning = tuning
        # A change is added to numbers, not to the file's few bits.
        held = "dequantised" if tuning.shared_parts else hold
        model = load_streamed(path, dtype=dtype, hold=held) if streamed else load_full(path, dtype=dtype)
        self.model: PreTrainedModel = to_device(model, device)
        self._experts = (_Streamed if streamed else _Held)(self.model, self._storage, tuning)
        self._routers: dict[int, tuple[nn.Parameter, Tensor]] = {}
        if tuning.router_rows:
            for layer, name in router_names(self._storage).items():
                weight = self.model.get_parameter(name)
                self._routers[layer] = (weight, weight.detach().clone())
        self._shared = SharedWeights(self.model, self._storage, tuning)

    def set(self, arrays: ExpertArrays) -> "MergedModel":
        """Make the model equal the base with these arrays; nothing of an earlier `set` remains.

        Raises
        ------
        ValueError
            If an array does not fit; the model is then unchanged.
        """
        check_arrays(arrays, self._layout, self._tuning)
        self._experts.set(arrays)
        for layer, (weight_EH, base_EH) in self._routers.items():
            weight_EH.data.copy_(changed_weight(base_EH, layer, arrays))
        self._shared.set(arrays)
        return self


class _Held:
    """Experts in memory: those that a `set` changes are written into the model's tensors."""

    def __init__(self, model: PreTrainedModel, storage: Storage, tuning: Tuning) -> None:
        self._storage, self._tuning = storage, tuning
        self._blocks = {block.layer: block for block in find_blocks(model)}
        self._touched: set[ExpertId] = set()

    def set(self, arrays: ExpertArrays) -> None:
        experts = {key.expert for key in arrays if not key.is_shared}
        for expert in self._touched - experts:
            self._write(expert, self._storage.read_expert(expert.layer, expert.index))
        for expert, fused in merged_experts(self._storage, arrays, self._tuning):
            self._write(expert, fused)
        self._touched = experts

    def _write(self, expert: ExpertId, fused: dict[str, Tensor]) -> None:
        for name, value in fused.items():
            self._blocks[expert.layer].view(name, expert.index).copy_(value)


class _Streamed:
    """Experts on disk: what a `set` changes is added to each as it is read."""

    def __init__(self, model: PreTrainedModel, storage: Storage, tuning: Tuning) -> None:
        self._storage, self._tuning = storage, tuning
        self._arrays: dict[ExpertId, ExpertArrays] = {}
        for module in streamed_experts(model):
            module.read = partial(self._read, module.layer)

    def set(self, arrays: ExpertArrays) -> None:
        self._arrays = {}
        for key, value in arrays.items():
            self._arrays.setdefault(key.expert, {})[key] = value

    def _read(self, layer: int, index: int, projection: str) -> tuple[Tensor, Tensor | None]:
        weight, bias = self._storage.read_projection(layer, index, projection)
        expert = ExpertId(layer, index)
        arrays = self._arrays.get(expert, {})
        if self._tuning.method == "full":
            tuned = [tuned_part(arrays, expert, f"{projection}.{part}") for part in ("weight", "bias")]
            return weight if tuned[0] is None else tuned[0], bias if tuned[1] is None else tuned[1]
        added = lora_change(arrays, self._tuning, expert, projection, weight.shape[1])
        return weight if added is None else weight.float() + added, bias
