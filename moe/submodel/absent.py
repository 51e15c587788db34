"""What becomes of tokens whose router wants experts that are not here.

Shape letters: T tokens, K choices per token, N kept experts, C choices among the kept experts.
"""

from typing import Literal, cast, get_args

import torch
from torch import Tensor

Absent = Literal["reroute", "restrict", "renormalise", "mask"]
"""The rules; see `choose_kept`."""

HEARS_ROUTER: tuple[Absent, ...] = ("reroute", "restrict")
"""Rules that ask which of the kept experts the router likes best."""

Choice = tuple[Tensor, Tensor]
"""Position among the kept experts (``N`` where absent) and weight, of each choice of each token."""


def choose_kept(
    local_TK: Tensor, weight_TK: Tensor, logits_TN: Tensor | None, absent: Absent, num_kept: int
) -> Choice:
    """Return the choice among kept experts and its weights, for every token.

    A token all of whose chosen experts are kept keeps its choice and weights exactly. For the others:

    * ``reroute``: as ``renormalise``, but a token left with no expert goes, with its total weight, to
      the kept expert its router likes best. No token goes without.
    * ``restrict``: the ``min(K, N)`` best kept experts by the router's logits share the token's total
      weight in proportion to the softmax of those logits. No token goes without, and each costs as
      much as in the full model.
    * ``renormalise``: absent choices are dropped, the rest is scaled to the token's total.
    * ``mask``: absent choices are dropped.

    With one kept expert ``reroute`` and ``restrict`` are the same.

    Parameters
    ----------
    local_TK : Tensor
        Position of each choice among the kept experts, ``num_kept`` where absent.
    weight_TK : Tensor
        The router's weights; a token's total is their sum.
    logits_TN : Tensor or None
        The router's logits of the kept experts, for ``reroute`` and ``restrict`` among several.
    absent : {"reroute", "restrict", "renormalise", "mask"}
        The rule.
    num_kept : int
        N, > 0.

    Returns
    -------
    tuple[Tensor, Tensor]
        ``local_TC`` and ``weight_TC``; C is K, or less where a rule needs fewer.
    """
    is_kept_TK = local_TK < num_kept
    if absent == "mask":
        return local_TK, weight_TK * is_kept_TK
    if absent == "renormalise":
        return local_TK, _rescale(weight_TK, is_kept_TK)
    if num_kept == 1:
        # A token with several choices has lost some, and of one choice all the weight is the total.
        return torch.zeros_like(local_TK[:, :1]), weight_TK.sum(dim=-1, keepdim=True)
    assert logits_TN is not None
    if absent == "reroute":
        return _reroute(local_TK, weight_TK, logits_TN, is_kept_TK)
    return _restrict(local_TK, weight_TK, logits_TN, is_kept_TK)


def _rescale(weight_TK: Tensor, is_kept_TK: Tensor) -> Tensor:
    """Return the weights of kept choices, scaled to each token's total."""
    total_T1 = weight_TK.sum(dim=-1, keepdim=True).float()
    # In float32: the guard against dividing by nothing is itself nothing in float16.
    kept_TK = (weight_TK * is_kept_TK).float()
    scaled_TK = kept_TK * (total_T1 / kept_TK.sum(dim=-1, keepdim=True).clamp_min(1e-9))
    is_whole_T1 = is_kept_TK.all(dim=-1, keepdim=True)
    return torch.where(is_whole_T1, weight_TK, scaled_TK.to(weight_TK.dtype))


def _reroute(local_TK: Tensor, weight_TK: Tensor, logits_TN: Tensor, is_kept_TK: Tensor) -> Choice:
    """Rescale, and give the first place of a token that lost all its choices to its best kept expert."""
    is_lost_T1 = ~is_kept_TK.any(dim=-1, keepdim=True)
    best_T1 = logits_TN.argmax(dim=-1, keepdim=True)
    total_T1 = weight_TK.sum(dim=-1, keepdim=True)
    scaled_TK = _rescale(weight_TK, is_kept_TK)
    first_T1 = torch.where(is_lost_T1, best_T1, local_TK[:, :1])
    share_T1 = torch.where(is_lost_T1, total_T1, scaled_TK[:, :1])
    return torch.cat([first_T1, local_TK[:, 1:]], dim=-1), torch.cat([share_T1, scaled_TK[:, 1:]], dim=-1)


def _restrict(local_TK: Tensor, weight_TK: Tensor, logits_TN: Tensor, is_kept_TK: Tensor) -> Choice:
    """Let the best kept experts share the total of every token that lost a choice."""
    num_choices = min(local_TK.shape[1], logits_TN.shape[1])
    best_logits_TC, best_TC = torch.topk(logits_TN.float(), num_choices, dim=-1)
    total_T1 = weight_TK.sum(dim=-1, keepdim=True).float()
    share_TC = (torch.softmax(best_logits_TC, dim=-1) * total_T1).to(weight_TK.dtype)
    if num_choices < local_TK.shape[1]:
        return best_TC, share_TC
    is_whole_T1 = is_kept_TK.all(dim=-1, keepdim=True)
    return torch.where(is_whole_T1, local_TK, best_TC), torch.where(is_whole_T1, weight_TK, share_TC)


def check_absent(absent: str) -> Absent:
    """Return ``absent`` if it names a rule.

    Raises
    ------
    ValueError
        If it does not.
    """
    for known in get_args(Absent):
        if absent == known:
            return cast(Absent, known)
    raise ValueError(f"absent must be one of {', '.join(get_args(Absent))}, got {absent!r}")
