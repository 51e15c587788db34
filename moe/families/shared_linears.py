"""The linear layers of a decoder layer that all its experts share: those of attention, of shared experts.

What they are called differs between families, so they are known by what they are part of. Routers and the
gates of shared experts are left out: they choose, and are tuned by nobody here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import nn

from moe.families.blocks import MoEBlock

_CHOOSES = frozenset({"gate", "router", "indexer", "wg"})
_BESIDE_ATTENTION = ("norm", "connection")
"""In the names of modules that are called after the attention they stand beside."""
_PEFT_PREFIX = "base_model.model."
_PEFT_INSIDE = frozenset({"base_layer", "lora_A", "lora_B", "lora_dropout"})


class SharedLinear(NamedTuple):
    """One linear layer.

    Parameters
    ----------
    part : str
        ``attention`` or ``shared-experts``.
    layer : int
        Number of its decoder layer, as of `MoEBlock`.
    name : str
        Within that layer, such as ``self_attn.q_proj``.
    path : str
        In the model.
    module : Module
        It, or what PEFT has put around it.
    """

    part: str
    layer: int
    name: str
    path: str
    module: nn.Module


def shared_linears(model: nn.Module, blocks: Iterable[MoEBlock]) -> Iterator[SharedLinear]:
    """Yield the shared linear layers of a model, whole or a sub-model, with PEFT around it or not.

    Parameters
    ----------
    model : Module
        Whose.
    blocks : iterable of MoEBlock
        Of the model, or of the one that it is a sub-model of.
    """
    stacks = _stacks(blocks)
    kinds: dict[str, str] = {}
    for wrapped, module in model.named_modules():
        path = wrapped.removeprefix(_PEFT_PREFIX)
        stack, rest = _split(path)
        number, _, name = rest.partition(".")
        if stack not in stacks or not name:
            continue
        parent = path.rpartition(".")[0]
        kind = kinds[path] = _kind(name, module) or kinds.get(parent, "")
        if kind and _is_linear(module) and not _is_left_out(name):
            yield SharedLinear(kind, int(number) + stacks[stack], name, path, module)


def _stacks(blocks: Iterable[MoEBlock]) -> Mapping[str, int]:
    """Return the lists of decoder layers that have experts, and what is added to a number in each."""
    stacks: dict[str, int] = {}
    for block in blocks:
        stack, rest = _split(block.path)
        stacks[stack] = block.layer - int(rest.partition(".")[0])
    return stacks


def _split(path: str) -> tuple[str, str]:
    """Return a name up to its first number, and the rest from the number on."""
    parts = path.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[:at]), ".".join(parts[at:])


def _kind(name: str, module: nn.Module) -> str:
    """Return which shared part a module begins, if any."""
    last, kind = name.rpartition(".")[2].lower(), type(module).__name__.lower()
    if "share" in last:
        return "shared-experts"
    if any(word in last for word in _BESIDE_ATTENTION):
        return ""
    return "attention" if "attn" in last or "attention" in last or "attention" in kind else ""


def _is_linear(module: nn.Module) -> bool:
    """Tell a linear layer, ours with packed weights, or PEFT's of either; not a class that does more."""
    return type(module).__name__ in ("Linear", "PackedLinear")


def _is_left_out(name: str) -> bool:
    """Tell what chooses, and what PEFT has put inside a layer of its own."""
    parts = name.split(".")
    return any(part in _CHOOSES or part in _PEFT_INSIDE or part.endswith("_gate") for part in parts)
