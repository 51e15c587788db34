"""How many experts a router may choose: no more than there are, also where it chooses among groups first."""

from collections.abc import Iterable, Mapping
from typing import Any

from moe.families.blocks import MoEBlock

# Under which names families keep how many experts are chosen for a token.
_TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "num_selected_experts"),
    *("moe_topk", "moe_top_k", "moe_k"),
)

# Routers that take a null for no groups; the others would fail on the first token.
_MAY_LACK = ("AXK2TopkRouter",)


def check_choices(where: str, fields: Mapping[str, Any], blocks: Iterable[MoEBlock]) -> None:
    """Refuse routers that would choose more experts than there are, or none.

    Parameters
    ----------
    where : str
        Whose they are, for the error.
    fields : Mapping[str, Any]
        The content of ``config.json``, where the number is named.
    blocks : Iterable[MoEBlock]
        Of the model.

    Raises
    ------
    ValueError
        Of the first such layer, with the field and its value.
    """
    for block in blocks:
        choosable = block.num_experts + block.family.num_identity
        if not block.num_experts:
            raise ValueError(f"{where} has no experts in layer {block.layer} by its config.json; correct it")
        if not 1 <= block.top_k <= choosable:
            names = " or ".join(_named(fields, block.top_k)) or "the number of experts for a token"
            raise ValueError(
                f"{where} has {names} = {block.top_k} in config.json, and layer {block.layer} has "
                f"{choosable} experts to choose from: it must be in [1, {choosable}]; correct it"
            )
        fault = _group_fault(block)
        if fault:
            raise ValueError(f"{where} has {fault} in config.json, for {choosable} experts; correct it")


def _named(fields: Mapping[str, Any], top_k: int) -> list[str]:
    """Return the fields that say so many, in the whole or a part of it."""
    parts = [fields, *(value for value in fields.values() if isinstance(value, Mapping))]
    return sorted({name for part in parts for name in _TOP_K if part.get(name) == top_k})


def _group_fault(block: MoEBlock) -> str:
    """Return what is wrong with the groups a router chooses first; empty without groups."""
    router = block.router
    count, chosen = getattr(router, "num_group", None), getattr(router, "topk_group", None)
    has_none = not hasattr(router, "num_group") or (count is None and type(router).__name__ in _MAY_LACK)
    if has_none or getattr(router, "topk_method", "") == "greedy":
        return ""  # greedy: it has groups, and does not ask for them
    for name, value in (("n_group", count), ("topk_group", chosen)):
        if not isinstance(value, int):
            return f"{name} = {value!r}: its routers choose among groups of experts first, 1 for none"
    assert isinstance(count, int)
    assert isinstance(chosen, int)
    if count < 1 or block.num_experts % count:
        return f"n_group = {count}: it must divide the experts into equal groups"
    if not 1 <= chosen <= count:
        return f"topk_group = {chosen}: it must be in [1, {count}], as many groups as there are"
    if block.top_k > chosen * (block.num_experts // count):
        return f"topk_group = {chosen} of n_group = {count}: too few experts to choose {block.top_k} from"
    return ""
