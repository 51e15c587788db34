"""The experts of one layer while its stand-in is fitted: half of the tokens exact, half as devices will be.

The batch is doubled. Its first half is the full model; its second half has gone through the stand-ins of
the earlier layers. Of each layer the experts run once, on the first half, one expert read at a time.

Shape letters: T tokens of one half, H hidden, E experts, K choices per token.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from moe.device import to_device
from moe.standin.solve import Moments
from moe.standin.stand_in import StandIn, StandInExperts, gate_weights, identity_part
from moe.submodel.load import StreamedExperts

_LINEAR_WITHIN = 0.01
"""Relative error, beside the rounding of the stream, up to which a layer's output counts as a multiple of
what its experts give."""
_NOISE_WITHIN = 0.5
"""Relative error above which that multiple is not known: the stream is too coarse for what is added to it."""

Stage = Literal["observe", "empty", "stand in"]


class FittedExperts(StreamedExperts):
    """What a layer calls in the place of its experts while `fit_layer` runs it several times.

    ``observe``: exact experts for the first half, which are remembered, as is what the second half's were
    given; ``empty``: nothing for either; ``stand in``: exact for the first half, `stand_in` for the second.
    """

    stage: Stage = "observe"
    exact: Tensor
    given: Tensor
    gates: Tensor
    stand_in: StandInExperts

    def forward(self, hidden_TH: Tensor, *routing: Tensor, **named_routing: Tensor) -> Tensor:
        """Return what the experts give ``[2 T, H]``."""
        if self.is_skipped:
            return torch.zeros_like(hidden_TH)
        choice_TK, weight_TK = (*routing, *named_routing.values())[:2]
        first, second = hidden_TH.tensor_split(2)
        if self.stage == "observe":
            half = len(first)
            self.exact = self._exact(first, choice_TK[:half], weight_TK[:half])
            self.given = second
            self.gates = gate_weights(choice_TK[half:], weight_TK[half:], self.num_experts)
        if self.stage == "stand in":
            half = len(first)
            stood_TH = self.stand_in(second, choice_TK[half:], weight_TK[half:])
            own_TH = self._identity(first, choice_TK[:half], weight_TK[:half])
            return torch.cat([(self.exact + own_TH).to(hidden_TH.dtype), stood_TH])
        routed_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
        if self.stage == "observe":
            routed_TH[: len(first)] = self.exact
        return (routed_TH + self._identity(hidden_TH, choice_TK, weight_TK)).to(hidden_TH.dtype)

    def forget(self) -> None:
        """Let go of what was remembered."""
        del self.exact, self.given, self.gates

    def _exact(self, hidden_TH: Tensor, choice_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Return the real experts' weighted sum, in float32: each expert read once, on its tokens only."""
        out_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
        self._local_E = self._local_E.to(hidden_TH.device)  # where `layer_of` puts what it reads
        for index in range(self.num_experts):
            is_its_TK = choice_TK == index
            rows = is_its_TK.any(dim=1).nonzero()[:, 0]
            if len(rows):
                weight_P1 = (weight_TK * is_its_TK).sum(dim=1, keepdim=True)[rows]
                sizes = [0] * self.num_experts
                sizes[index] = len(rows)
                out_TH.index_add_(0, rows, self._weighted(hidden_TH[rows], sizes, weight_P1).float())
        return out_TH

    def _identity(self, hidden_TH: Tensor, choice_TK: Tensor, weight_TK: Tensor) -> Tensor | float:
        if not self.block.family.num_identity:
            return 0.0
        return identity_part(hidden_TH, choice_TK, weight_TK, self.num_experts)


def fit_layer(
    layer: nn.Module, args: Any, named: Any, output: Any, experts: FittedExperts, rank: int
) -> tuple[StandIn, Any]:
    """Fit the stand-in of a layer that has just run in the stage ``observe``.

    The stand-in is to give what makes the stream behind the layer the exact one again: the exact experts'
    output on the exact stream, and on top of it what the second half's stream lacks by now. That is known
    where the layer's output grows by a fixed multiple of what its experts give; where it does not (a norm
    behind the experts, several streams) the exact experts' output alone is the target.

    Parameters
    ----------
    layer : Module
        The layer, which is run again.
    args, named, output
        What it was called with, and gave.
    experts : FittedExperts
        Its experts.
    rank : int
        R.

    Returns
    -------
    StandIn, object
        The stand-in, and the layer's output with it in the second half.
    """
    experts.stage = "empty"
    empty = layer.forward(*args, **named)
    target_TH = experts.exact
    lacking_TH = _lacking(stream_of(output), stream_of(empty), target_TH)
    if lacking_TH is not None:
        target_TH = target_TH + lacking_TH
    del empty, lacking_TH  # as large as the stream, and the layer is about to run again
    moments = Moments(target_TH.shape[1], experts.num_experts)
    moments.add(experts.given, experts.gates, target_TH)
    # Rounded here: the next layers then see what devices will.
    stand_in = moments.solve(rank).rounded()
    experts.stand_in = to_device(StandInExperts(experts.block, stand_in), target_TH.device)
    experts.stage = "stand in"
    result = layer.forward(*args, **named)
    experts.forget()
    return stand_in, result


def stream_of(output: Any) -> Tensor | None:
    """Return the residual stream that a layer gives, in rows; None where it gives none first."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first.reshape(-1, first.shape[-1]) if isinstance(first, Tensor) else None


def _lacking(output: Tensor | None, empty: Tensor | None, exact_TH: Tensor) -> Tensor | None:
    """Return what the experts of the second half must give beside ``exact_TH``; None where it is not known.

    Parameters
    ----------
    output, empty : Tensor ``[2 T, H]``
        The stream behind the layer with the exact experts in the first half, and with none.
    """
    twice = (2 * len(exact_TH), exact_TH.shape[1])
    if output is None or empty is None or output.shape != twice or empty.shape != twice:
        return None
    gained_TH = (output.float() - empty.float())[: len(exact_TH)]
    square = float(exact_TH.square().sum())
    gain = float((gained_TH * exact_TH).sum()) / square if square else 1.0
    gained, error = float(gained_TH.norm()), float((gained_TH - gain * exact_TH).norm())
    rounding = torch.finfo(output.dtype).eps * float(output.float().norm())
    if gain == 0 or error > min(_LINEAR_WITHIN * gained + rounding, _NOISE_WITHIN * gained):
        return None
    exact_empty, own_empty = empty.float().tensor_split(2)
    return (exact_empty - own_empty) / gain
