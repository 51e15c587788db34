"""The special families' blocks told slowly, token by token and expert by expert.

Written against transformers' modules, not against `moe.families.special_families`, so that the two can
disagree.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu, silu

Choices = list[dict[int, float]]
"""For every token: expert -> weight."""


def choices(parent: Any, output: Any) -> tuple[Choices, Tensor]:
    """Return who each token goes to by what the router gave, and the router's logits ``[T, E]``."""
    return _CHOICES[type(parent).__name__](parent, output)


def run(
    parent: Any, hidden: Tensor, change: Callable[[dict[int, float], list[float]], dict[int, float]]
) -> Any:
    """Return what the block returns when ``change`` has its way with each token's choice."""
    kind = type(parent).__name__
    flat = hidden.reshape(-1, hidden.shape[-1])
    given, logits = choices(parent, parent.router(hidden if kind == "SwitchTransformersSparseMLP" else flat))
    out = torch.zeros_like(flat)
    for token, (choice, scores) in enumerate(zip(given, logits.tolist(), strict=True)):
        for expert, weight in change(choice, scores).items():
            if kind == "Llama4TextMoe":
                out[token] += _EXPERTS[kind](parent, expert, flat[token] * weight)
            else:
                out[token] += _EXPERTS[kind](parent, expert, flat[token]) * weight
    if kind == "Llama4TextMoe":
        return out + parent.shared_expert(flat), logits
    return out.view_as(hidden) + (parent.bias if kind == "JetMoeMoE" else 0)


def _pairs(experts: Tensor, weights: Tensor) -> Choices:
    return [dict(zip(*row, strict=True)) for row in zip(experts.tolist(), weights.tolist(), strict=True)]


def _llama4(_parent: Any, output: Any) -> tuple[Choices, Tensor]:
    scores, logits = output
    return [{e: s for e, s in enumerate(row) if s > 0} for row in scores.tolist()], logits


def _switch(_parent: Any, output: Any) -> tuple[Choices, Tensor]:
    taken, weight, logits = (value.flatten(0, 1) for value in output)
    rows = zip(taken.tolist(), weight[:, 0].tolist(), strict=True)
    return [{e: w for e, is_taken in enumerate(row) if is_taken} for row, w in rows], logits


def _jetmoe(_parent: Any, output: Any) -> tuple[Choices, Tensor]:
    _, tokens, gates, sizes, logits = output
    given: Choices = [{} for _ in logits]
    owners = [expert for expert, size in enumerate(sizes) for _ in range(size)]
    for expert, token, gate in zip(owners, tokens.tolist(), gates.tolist(), strict=True):
        given[token][expert] = gate
    # The best first, as elsewhere.
    return [dict(sorted(row.items(), key=lambda pair: -pair[1])) for row in given], logits


def _longcat(_parent: Any, output: Any) -> tuple[Choices, Tensor]:
    logits, weights, experts = output
    return _pairs(experts, weights), logits


def _dbrx(parent: Any, output: Tensor) -> tuple[Choices, Tensor]:
    best, experts = torch.topk(torch.softmax(output, dim=-1), parent.top_k, dim=-1)
    return _pairs(experts, best / best.sum(dim=-1, keepdim=True)), output


def _llama4_expert(parent: Any, index: int, x: Tensor) -> Tensor:
    gate, up = (x @ parent.experts.gate_up_proj[index]).chunk(2)
    return silu(gate) * up @ parent.experts.down_proj[index]


def _switch_expert(parent: Any, index: int, x: Tensor) -> Tensor:
    expert: Any = parent.experts[f"expert_{index}"]
    return expert.wo(relu(expert.wi(x)))


def _jetmoe_expert(parent: Any, index: int, x: Tensor) -> Tensor:
    gate, up = linear(x, parent.input_linear.weight[index]).chunk(2)
    return linear(silu(gate) * up, parent.output_linear.weight[index])


def _longcat_expert(parent: Any, index: int, x: Tensor) -> Tensor:
    if index >= 8:
        return x
    gate, up = linear(x, parent.experts.gate_up_proj[index]).chunk(2)
    return linear(silu(gate) * up, parent.experts.down_proj[index])


def _dbrx_expert(parent: Any, index: int, x: Tensor) -> Tensor:
    mlp: Any = parent.experts.mlp
    rows = slice(index * mlp.ffn_hidden_size, (index + 1) * mlp.ffn_hidden_size)
    return silu(x @ mlp.w1[rows].T) * (x @ mlp.v1[rows].T) @ mlp.w2[rows]


_CHOICES: dict[str, Callable[[Any, Any], tuple[Choices, Tensor]]] = {
    "Llama4TextMoe": _llama4,
    "SwitchTransformersSparseMLP": _switch,
    "JetMoeMoE": _jetmoe,
    "LongcatFlashMoE": _longcat,
    "DbrxFFN": _dbrx,
}
_EXPERTS: dict[str, Callable[[Any, int, Tensor], Tensor]] = {
    "Llama4TextMoe": _llama4_expert,
    "SwitchTransformersSparseMLP": _switch_expert,
    "JetMoeMoE": _jetmoe_expert,
    "LongcatFlashMoE": _longcat_expert,
    "DbrxFFN": _dbrx_expert,
}


def is_special(module: nn.Module) -> bool:
    """Tell whether a module is a block of one of these families."""
    return type(module).__name__ in _CHOICES
