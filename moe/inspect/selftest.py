"""Does this project handle a checkpoint exactly? For families that its tests do not cover."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from moe.disk.layout import open_storage, read_layout
from moe.families.blocks import find_blocks
from moe.objective import language_model_inputs
from moe.submodel.load import all_experts, fused_experts, load_full, load_submodel

# Un-fused experts may add up in another order than the family's own kernel; more than rounding is a fault.
# In half precision one rounding is already more than the first of these.
_TOLERANCE, _NUM_ROUNDINGS = 1e-4, 2
_NUM_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What the start-up self-test found.

    Parameters
    ----------
    family : str
        The checkpoint's ``model_type``.
    keep_all_error : float
        Largest difference between the logits of the model and of the sub-model that keeps every
        expert, relative to the largest logit.
    tolerance : float
        What of that is still rounding, in the checkpoint's dtype.
    is_merge_exact : bool
        Whether slicing into clusters and putting the pieces back gives the same bits.
    """

    family: str
    keep_all_error: float
    tolerance: float
    is_merge_exact: bool

    @property
    def has_passed(self) -> bool:
        """Whether both laws hold."""
        return self.is_merge_exact and self.keep_all_error <= self.tolerance


def check(path: str | Path, *, num_clusters: int = 3) -> SelfTest:
    """Try laws 1 and 2 on a checkpoint: slice and merge is exact; keeping all is the model.

    Needs memory for the model about twice.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.
    num_clusters : int
        Into how many clusters the experts are sliced, > 0.

    Raises
    ------
    ValueError
        As `moe.disk.layout.read_layout`.
    """
    full = load_full(path)
    vocabulary = full.config.get_text_config().vocab_size
    tokens = torch.randint(0, vocabulary, (1, _NUM_TOKENS), generator=torch.Generator().manual_seed(0))
    keep = all_experts(open_storage(path).blocks.values())
    with torch.no_grad():
        inputs = language_model_inputs(full, tokens)
        expected = full(**inputs).logits.float()
        kept = load_submodel(path, keep)(**inputs).logits.float()
    error = (kept - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return SelfTest(
        family=read_layout(path).family,
        keep_all_error=float(error),
        tolerance=max(_TOLERANCE, _NUM_ROUNDINGS * torch.finfo(full.dtype).eps),
        is_merge_exact=merges_exactly(path, full, num_clusters),
    )


def merges_exactly(path: str | Path, full: PreTrainedModel, num_clusters: int) -> bool:
    """Tell whether the sub-models of ``num_clusters`` clusters hold exactly the full model together."""
    original = {name: value.clone() for name, value in full.state_dict().items()}
    blocks = {block.layer: block for block in find_blocks(full)}
    for block in blocks.values():
        for index in range(block.num_experts):
            for name in block.parameters:
                block.view(name, index).fill_(float("nan"))
    is_same = True
    for cluster in range(num_clusters):
        sub = load_submodel(path, {n: range(cluster, b.num_experts, num_clusters) for n, b in blocks.items()})
        mine = sub.state_dict()
        is_same &= all(torch.equal(mine[name], value) for name, value in original.items() if name in mine)
        for layer, experts in fused_experts(sub).items():
            for index, fused in experts.items():
                for name, value in fused.items():
                    blocks[layer].view(name, index).copy_(value)
    merged = full.state_dict()
    return is_same and all(torch.equal(merged[name], value) for name, value in original.items())
