"""What stands for the experts of a layer, and the module that computes it.

Shape letters: T tokens, H hidden, E experts, K choices per token, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from moe.families.blocks import MoEBlock
from moe.submodel.whole_layer import WholeLayer

WIRE_DTYPE = torch.bfloat16
"""Of stand-ins on disk and on the way. float16 has three bits more, but nothing above 65504, and the
residual stream of published models has channels near that. What the rounding costs: docs/LOG.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """``y = bias + out @ (into @ x) + sum over experts of gate_e * constant_e``, for one layer.

    Parameters
    ----------
    bias : Tensor ``[H]``
    out : Tensor ``[H, R]``
    into : Tensor ``[R, H]``
    constant : Tensor ``[E, H]``
    """

    bias: Tensor
    out: Tensor
    into: Tensor
    constant: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its parts by what they are called in files."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rounded(self) -> "StandIn":
        """Return it in `WIRE_DTYPE`."""
        return StandIn(**{name: tensor.to(WIRE_DTYPE) for name, tensor in self.tensors.items()})

    @property
    def num_bytes(self) -> int:
        """Of its parts."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """The stand-ins of a model.

    Parameters
    ----------
    base : str
        Identity of the checkpoint they were fitted to, such as `moe.export.checkpoint.fingerprint` gives.
    of_layer : Mapping[int, StandIn]
        Every MoE layer but the last, behind which no router looks at anything.
    """

    base: str
    of_layer: Mapping[int, StandIn]

    @property
    def num_bytes(self) -> int:
        """Of all parts; a file adds a header."""
        return sum(stand_in.num_bytes for stand_in in self.of_layer.values())


def gate_weights(choice_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Tensor:
    """Return the routing weight ``[T, E]`` of every expert, float32; identity experts are left out."""
    weight = (weight_TK * (choice_TK < num_experts)).float()
    gate_TE = weight.new_zeros(len(weight), num_experts)
    return gate_TE.scatter_add_(1, choice_TK.long().clamp(max=num_experts - 1), weight)


def identity_part(hidden_TH: Tensor, choice_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Tensor:
    """Return what the identity experts behind the real ones give: a share of the input, float32."""
    own_T1 = (weight_TK * (choice_TK >= num_experts)).sum(dim=1, keepdim=True).float()
    return hidden_TH.float() * own_T1


class StandInExperts(WholeLayer):
    """A stand-in in the place of a family's experts module.

    Parameters
    ----------
    block : MoEBlock
        The block whose experts it stands for.
    stand_in : StandIn or None
        What it computes; None for zeros, where nobody looks at it.
    """

    def __init__(self, block: MoEBlock, stand_in: StandIn | None) -> None:
        super().__init__()
        self.layer, self.block, self.num_experts = block.layer, block, block.num_experts
        # Widened once, here: they are small beside the shared part.
        self._parts = nn.ParameterDict(
            {
                name: nn.Parameter(tensor.float(), requires_grad=False)
                for name, tensor in (stand_in.tensors if stand_in else {}).items()
            }
        )

    def forward(self, hidden_TH: Tensor, *routing: Tensor, **named_routing: Tensor) -> Tensor:
        """Return what stands for the experts' weighted sum ``[T, H]``.

        ``choice_TK, weight_TK`` follow ``hidden_TH``.
        """
        choice_TK, weight_TK = (*routing, *named_routing.values())[:2]
        if self.is_skipped or not self._parts:
            return torch.zeros_like(hidden_TH)
        of = self._parts
        x_TH, gate_TE = hidden_TH.float(), gate_weights(choice_TK, weight_TK, self.num_experts)
        out_TH = torch.addmm(of["bias"], x_TH @ of["into"].T, of["out"].T) + gate_TE @ of["constant"]
        if self.block.family.num_identity:
            out_TH = out_TH + identity_part(hidden_TH, choice_TK, weight_TK, self.num_experts)
        return out_TH.to(hidden_TH.dtype)
