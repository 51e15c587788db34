"""The experts a device keeps, as plain linear layers, in the place of all experts of a layer.

Shape letters: T tokens, H hidden, E experts of the full model, K choices per token, N kept choices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe.families.blocks import MoEBlock
from moe.submodel.absent import HEARS_ROUTER, Absent, choose_kept


class Expert(nn.Module):
    """One expert as two linear layers.

    The names ``fc_in`` and ``fc_out`` are deliberate: PEFT rewrites targets called ``gate_proj``,
    ``down_proj``, ``w1`` and the like into targets on fused parameters.
    """

    def __init__(self, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor | None]) -> None:
        super().__init__()
        self.fc_in = linear(weights["fc_in"], biases["fc_in"])
        self.fc_out = linear(weights["fc_out"], biases["fc_out"])


class _Linear(nn.Linear):
    """Linear layer that computes in its input's type, whatever type it is held in.

    Held in float32 under a model in half precision, small steps of training are not lost. The bias is
    added after the product, as transformers' experts do: the same bits.
    """

    def reset_parameters(self) -> None:
        """Draw nothing: `linear` gives every layer the tensors it is made around."""

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(x, self.weight.to(x.dtype))
        return out if self.bias is None else out + self.bias.to(x.dtype)


class ExpertSubset(nn.Module):
    """Stand-in for a family's fused experts module that holds only some of the experts.

    Parameters
    ----------
    block : MoEBlock
        The block it replaces; its family lends the gate function and any norm that all experts share,
        its router is listened to and otherwise left alone.
    experts : Mapping[int, Expert]
        The kept experts by their index in the full model; may be empty.
    absent : {"reroute", "restrict", "renormalise", "mask"}
        What to do with choices of experts that are not here; see `moe.submodel.absent`.
    """

    def __init__(self, block: MoEBlock, experts: Mapping[int, Expert], absent: Absent) -> None:
        super().__init__()
        self.layer = block.layer
        self.block = block
        self.num_experts = block.num_experts
        self.absent = absent
        self._hold(tuple(sorted(experts)))
        for index in self.kept:
            self.add_module(f"e{index}", experts[index])
        for name, child in block.family.lent().items():
            self.add_module(name, child)
        self._gate: Callable[[Tensor], Tensor] = block.family.gate()
        self._norm: nn.Module | None = block.family.norm()
        self._logits_TE: Tensor | None = None
        is_told = block.family.is_block_replaced  # the logits come with the call
        if absent in HEARS_ROUTER and 1 < len(self.kept) < self.num_experts and not is_told:
            block.router.register_forward_hook(self._listen)

    def _hold(self, kept: tuple[int, ...]) -> None:
        """Say which experts are here."""
        self.kept = kept
        # Identity experts follow the real ones, and everybody has them.
        num_all = self.num_experts + self.block.family.num_identity
        here = (*kept, *range(self.num_experts, num_all))
        # Plain attributes, not buffers: transformers re-creates non-persistent buffers uninitialised.
        self._local_E = torch.full((num_all,), len(here))
        self._local_E[list(here)] = torch.arange(len(here))
        self._kept = torch.tensor(here, dtype=torch.long)

    def expert(self, index: int) -> Expert:
        """Return a kept expert by its index in the full model."""
        return cast(Expert, self._modules[f"e{index}"])

    def layer_of(self, index: int, projection: str) -> nn.Module:
        """Return one of a kept expert's two linear layers, ``fc_in`` or ``fc_out``."""
        layer: nn.Module = getattr(self.expert(index), projection)
        return layer

    def forward(self, hidden_TH: Tensor, *routing: Tensor, **named_routing: Tensor) -> Tensor:
        """Return the kept experts' weighted sum ``[T, H]``.

        ``choice_TK, weight_TK`` follow ``hidden_TH``, and where the caller has them the router's logits.
        """
        choice_TK, weight_TK, *logits = (*routing, *named_routing.values())
        num_kept, num_all = len(self._kept), len(self._local_E)
        if self._local_E.device != hidden_TH.device:
            self._local_E = self._local_E.to(hidden_TH.device)
            self._kept = self._kept.to(hidden_TH.device)
        local_TK = self._local_E[choice_TK]
        if 0 < num_kept < num_all:
            is_asked = self.absent in HEARS_ROUTER and num_kept > 1
            logits_TN = (logits[0] if logits else self._heard())[:, self._kept] if is_asked else None
            local_TK, weight_TK = choose_kept(local_TK, weight_TK, logits_TN, self.absent, num_kept)
        if num_kept > len(self.kept):
            return self._with_identity(hidden_TH, local_TK, weight_TK)
        if num_kept == 1 and local_TK.shape[1] == 1 and self.absent in HEARS_ROUTER:
            # Every token goes to the one expert: nothing to gather or scatter.
            return self._weighted(hidden_TH, [len(hidden_TH)], weight_TK).to(hidden_TH.dtype)
        return self._dispatch(hidden_TH, local_TK, weight_TK)

    def _with_identity(self, hidden_TH: Tensor, local_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Run the kept experts, and give back the input for choices of the identity experts behind them."""
        num_real = len(self.kept)
        routed_TH = self._dispatch(hidden_TH, local_TK.clamp(max=num_real), weight_TK)
        token, place = ((local_TK >= num_real) & (local_TK < len(self._kept))).nonzero(as_tuple=True)
        own_PH = hidden_TH[token] * weight_TK[token, place].unsqueeze(-1)
        return routed_TH.index_add(0, token, own_PH.to(hidden_TH.dtype))

    def _dispatch(self, hidden_TH: Tensor, local_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Run each kept expert once on its tokens; local index ``len(kept)`` means absent."""
        num_tokens, num_choices = local_TK.shape
        flat, order = torch.sort(local_TK.reshape(-1))
        counts: list[int] = torch.bincount(flat, minlength=len(self.kept) + 1).tolist()
        num_pairs = sum(counts[: len(self.kept)])
        if num_pairs == 0:
            return self._nothing(hidden_TH)
        order = order[:num_pairs]
        weight_P1 = weight_TK.reshape(-1)[order].unsqueeze(-1)
        pairs_PH = self._weighted(hidden_TH[order // num_choices], counts[: len(self.kept)], weight_P1)
        if self.block.family.adds_by_expert:
            own_PH = pairs_PH.to(hidden_TH.dtype)
            return torch.zeros_like(hidden_TH).index_add(0, order // num_choices, own_PH)
        # Summed over the choices in their order, as transformers' grouped_mm does, so that keeping
        # all experts gives the same bits.
        out = pairs_PH.new_zeros(num_tokens * num_choices, hidden_TH.shape[-1]).index_copy(0, order, pairs_PH)
        return out.view(num_tokens, num_choices, -1).sum(dim=1).to(hidden_TH.dtype)

    def _weighted(self, hidden_PH: Tensor, sizes: Sequence[int], weight_P1: Tensor) -> Tensor:
        if self.block.family.weighs_input:
            return self._run(hidden_PH * weight_P1, sizes)
        return self._run(hidden_PH, sizes) * weight_P1

    def _run(self, hidden_PH: Tensor, sizes: Sequence[int]) -> Tensor:
        """Run the kept experts on rows sorted by expert, ``sizes`` rows each.

        The gate runs once on all rows, as transformers' does: vectorised functions round the last few
        elements of a tensor differently, so per expert it would not be the same bits.
        """
        wide = self._project("fc_in", hidden_PH, sizes)
        out = self._project("fc_out", self._gate(wide), sizes)
        return out if self._norm is None else cast(Tensor, self._norm(out))

    def _project(self, projection: str, input_PD: Tensor, sizes: Sequence[int]) -> Tensor:
        busy = [(index, size) for index, size in zip(self.kept, sizes, strict=True) if size]
        parts = input_PD.split([size for _, size in busy])
        return _join([self.layer_of(index, projection)(x) for (index, _), x in zip(busy, parts, strict=True)])

    def _nothing(self, hidden_TH: Tensor) -> Tensor:
        """Return zeros that still depend on the trainable parameters, so that backward does not raise."""
        zeros = torch.zeros_like(hidden_TH)
        for parameter in self.parameters():
            if parameter.requires_grad:
                zeros = zeros + parameter.sum() * 0
        return zeros

    def _listen(self, _router: nn.Module, _inputs: Any, output: Any) -> None:
        self._logits_TE = _find_logits(output, self.num_experts)

    def _heard(self) -> Tensor:
        logits_TE, self._logits_TE = self._logits_TE, None
        if logits_TE is None:
            raise ValueError(
                f"absent {self.absent!r} needs the router's logits [tokens, {self.num_experts}], and the "
                f"router of layer {self.layer} gave none; use absent 'renormalise'"
            )
        return logits_TE


def expert_subsets(model: nn.Module) -> tuple[ExpertSubset, ...]:
    """Return the kept-experts modules of a sub-model by layer, through any PEFT wrapping.

    Raises
    ------
    ValueError
        If the model has none: it is not a sub-model.
    """
    found = sorted(
        (m for m in model.modules() if isinstance(m, ExpertSubset)), key=lambda module: module.layer
    )
    if not found:
        raise ValueError("the model has no un-fused experts; build it with moe.submodel.load.load_submodel")
    return tuple(found)


def _find_logits(output: Any, num_experts: int) -> Tensor | None:
    """Return the router's logits ``[T, E]`` or ``[T, E + 1]`` from whatever its forward gives."""
    candidates: Sequence[Any] = output if isinstance(output, tuple | list) else (output,)
    tensors = [value for value in candidates if isinstance(value, Tensor) and value.is_floating_point()]
    # One column more is the choice of no expert at all (zaya).
    for width in (num_experts, num_experts + 1):
        for value in tensors:
            if value.shape[-1] == width:
                return value.reshape(-1, width)
    return None


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer around existing tensors, frozen; no initialisation, no copy."""
    with torch.device("meta"):
        layer = _Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
